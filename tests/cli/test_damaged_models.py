"""A model's folder that is damaged, incomplete or hostile: one line that names the fault, and never an answer from random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from damaged_models import CASES, GOOD, Case, Damage
from small_model import Run

QUESTION = "what colour is the circle ?"
ASK = ("--keep", 9, "--max-new-tokens", 3)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of the small model."""
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    return copy


@pytest.fixture(autouse=True)
def nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked anything while a model loads."""

    def asked(text: object = "") -> str:
        raise AssertionError(f"the user was asked: {text}")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_damaged_folder_is_refused_with_one_line_that_names_the_fault(run: Run, picture: Path, folder: Path, case: Case) -> None:
    case.damage(folder)
    result = run("ask", picture, QUESTION, "--model", folder, *ASK)
    assert result.code == 1, result.out
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for word in case.words:
        assert word in result.err


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_a_whole_folder_in_another_form_answers_the_same(run: Run, picture: Path, model: Path, folder: Path, change: Damage) -> None:
    change(folder)
    expected = run("ask", picture, QUESTION, "--model", model, *ASK, "--json").data
    found = run("ask", picture, QUESTION, "--model", folder, *ASK, "--json").data
    assert found["answer"] == expected["answer"]
    assert found["visual_tokens"] == expected["visual_tokens"]
