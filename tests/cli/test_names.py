"""What files are called: nothing in a name drives the terminal, and none breaks a command."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from small_model import Run

from foveate.cli import console
from foveate.cli.bench import tables as bench_tables
from foveate.cli.eval.tables import comparison_table, evaluation_table
from foveate.measure.evaluation.comparison import Comparison

QUESTION = "what colour is the circle ?"
NAMES = {
    "escapes": b"a\x1b[31m\x07.png",
    "a second line": b"a\nerror: forged.png",
    "not UTF-8": b"caf\xe9\xff.png",
    "text that runs backwards": "gnp.\u202egpj.png".encode(),
}


def calm(text: str) -> bool:
    """Whether there is nothing in it that a terminal obeys, and whether it can be written as UTF-8."""
    text.encode()
    return all(letter.isprintable() or letter == "\n" for letter in text)


@pytest.fixture(params=NAMES.values(), ids=NAMES.keys())
def name(request: pytest.FixtureRequest) -> str:
    return os.fsdecode(request.param)


def test_a_picture_is_answered_about_whatever_files_are_called(run: Run, picture: Path, model: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"a\x1b[31m\nerror: \xe9\xff" + "\u202egpj.png".encode())
    (tmp_path / name).write_bytes(picture.read_bytes())
    drawn, report = tmp_path / f"drawn-{name}", tmp_path / f"{name}.json"
    asked = ["ask", tmp_path / name, QUESTION, "--model", model, "--keep", 9, "--max-new-tokens", 1, "--picture", drawn, "--report", report]
    result = run(*asked)
    assert result.code == 0
    assert calm(result.out)
    assert calm(result.err)
    assert drawn.exists()
    assert report.exists()
    result = run(*asked, "--json")
    assert calm(result.out)
    assert json.loads(result.out)["image"] == str(tmp_path / name)
    assert calm(run("draw", report, tmp_path / name, drawn, "--model", model).out)


def test_a_refusal_is_one_calm_line(run: Run, tmp_path: Path, name: str) -> None:
    for path in (tmp_path / name, tmp_path / name / "below"):
        for arguments in (["ask", path, QUESTION], ["ask", path, QUESTION, "--frames", 2], ["explain", path, QUESTION]):
            result = run(*arguments)
            assert result.code == 1
            assert calm(result.err)
            assert result.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["ask", "a.png", "?", "{name}"], ["{name}"], ["ask", "--{name}"], ["demo", "{name}"]])
def test_wrong_usage_quotes_a_name_calmly(run: Run, name: str, arguments: list[str]) -> None:
    result = run(*(argument.format(name=name) for argument in arguments))
    assert result.code == 2
    assert calm(result.err)


def test_an_answer_with_escapes_is_calm(run: Run, picture: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlavaProcessor

    monkeypatch.setattr(LlavaProcessor, "decode", lambda *_, **__: "blue\x1b]0;title\x07")
    for options in ([], ["--json"]):
        result = run("ask", picture, QUESTION, "--model", model, "--keep", 9, "--max-new-tokens", 1, *options)
        assert result.code == 0
        assert calm(result.out)


MARKED = "[/red]a\x1b[31m"


def test_tables_take_names_out_of_files_literally(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich reads a string as markup: `[red]` disappears, and `[/red]` is an error."""
    figures = dict.fromkeys(("of_full", "of_image", "loyalty", "method_seconds"))
    data = {"results": {MARKED: {MARKED: {**figures, "tokens_at_the_cut": 1, "mean_tokens_over_layers": 1}}}, "mean": {}}
    compared = Comparison(MARKED, MARKED, MARKED, 3, 0.1, 0.0, 0.2, 0.5, 1, 2, None)
    for table, count in (
        (evaluation_table(data), 2),
        (comparison_table([compared]), 3),
        (bench_tables.comparison_table([], (MARKED, MARKED)), 2),
        (console.listing(["name"], [[MARKED]]), 1),
    ):
        console.put_table(table, wide=True)
        shown = capsys.readouterr().out
        assert shown.count("[/red]a\\x1b[31m") == count
        assert calm(shown)
