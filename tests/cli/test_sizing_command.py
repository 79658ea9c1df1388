"""`foveate sizing` prints what the arithmetic gives, for known shapes and for a model of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_model import TOKENS, Run

from foveate.files.checkpoints import load_folder
from foveate.measure.bench.shapes import shapes


def test_a_row_for_each_model_and_budget(run: Run) -> None:
    found = run("sizing", "--keep", "128,0.25", "--json").data
    rows = found["rows"]
    assert [model["name"] for model in found["models"]] == list(shapes())
    assert [row["visual_tokens"] for row in rows if row["model"] == "llava-1.5-7b"] == [576, 128, 144]
    assert [row["visual_tokens"] for row in rows if row["model"] == "internvl3-8b"] == [256, 128, 64]
    for row in rows:
        whole = next(other for other in rows if other["model"] == row["model"])
        assert row["key_value_bytes"] * whole["visual_tokens"] == whole["key_value_bytes"] * row["visual_tokens"]
        assert all((a or 0) >= (b or 0) for a, b in zip(row["images"], whole["images"], strict=True))
        assert [count or 0 for count in row["images"]] == sorted(count or 0 for count in row["images"])


def test_a_model_of_ones_own(run: Run, model: Path) -> None:
    asked = ("sizing", "--model", model, "--keep", 9, "--memory", "1", "--reserve", 0, "--text", 3, "--dtype", "float32")
    (size,) = run(*asked, "--json").data["models"]
    whole, kept = run(*asked, "--json").data["rows"]
    parameters = sum(parameter.numel() for parameter in load_folder(model, torch.float32).parameters())
    assert (size["parameters"], whole["weight_bytes"], whole["visual_tokens"], kept["visual_tokens"]) == (
        parameters,
        4 * parameters,
        TOKENS,
        9,
    )
    one = 2 * 4 * 32 * 4  # key and value, layers, hidden size, bytes
    assert kept["key_value_bytes"] == 9 * one
    assert kept["images"] == [(2**30 - 4 * parameters) // (12 * one)]
    assert f"9 of {TOKENS}" in run(*asked).out


def test_weights_that_do_not_fit_are_said_not_to(run: Run) -> None:
    done = run("sizing", "--model", "shape:llava-1.5-13b", "--memory", "24,80")
    assert "does not fit" in done.out
    assert run("sizing", "--model", "shape:llava-1.5-13b", "--memory", "24", "--json").data["rows"][0]["images"] == [None]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--keep", "0"), 1, "keep=0"),
        (("--keep", "1.5"), 1, "keep=1.5"),
        (("--keep", "many"), 2, "'many'"),
        (("--memory", "24,0"), 2, "'24,0'"),
        (("--memory", "nan"), 2, "'nan'"),
        (("--reserve", "1"), 2, "1"),
        (("--model", "shape:llava"), 1, "unknown shape"),
        (("--model", "./nowhere"), 1, "no such model folder"),
        (("--image-size", "x"), 1, "--image-size"),
        (("--model", "shape:llava-1.5-7b", "--image-size", "672"), 1, "336x336 only"),
    ],
)
def test_what_cannot_be_computed_is_refused(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run("sizing", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert said in done.err
