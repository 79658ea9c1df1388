"""Numbers that are none, have no end, or are out of all proportion are refused as wrong usage or bad input, in every command."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import typer
from small_model import Run

from foveate.chat import models
from foveate.cli.adapter import options_of
from foveate.cli.app import COMMANDS, DEMO_COMMANDS, EXPORT_COMMANDS
from foveate.cli.checks import finite

pytestmark = pytest.mark.one_version

HUGE = str(10**40)
QUESTION = "what colour is the circle ?"

CASES = {
    **{
        f"{command[0]} {option} {value}": [*command, option, value]
        for command, option in (
            (["ask", "{picture}", QUESTION], "--max-megapixels"),
            (["explain", "{picture}", QUESTION], "--max-megapixels"),
            (["draw", "{picture}", "{picture}", "{folder}/x.png"], "--max-megapixels"),
            (["demo", "train", "{folder}/run"], "--hours"),
            (["demo", "train", "{folder}/run"], "--guidance"),
            (["train", "{folder}", "--out", "{folder}/run"], "--rate"),
            (["ask", "{picture}", QUESTION], "--keep"),
            (["bench"], "--keep"),
            (["bench"], "--batch"),
            (["bench"], "--prompt"),
            (["bench"], "--new-tokens"),
            (["bench"], "--image-size"),
            (["bench", "--model", "shape:llava-1.5-7b"], "--scale"),
            (["eval", "--suite", "scenes", "--out", "{folder}/run"], "--keep"),
            (["analyse", "--out", "{folder}/run"], "--keep"),
        )
        for value in ("nan", "inf", "-inf", "1e999", "-1", "")
    },
    **{
        f"bench {option} {HUGE}": ["bench", option, HUGE] for option in ("--batch", "--prompt", "--new-tokens", "--image-size")
    },
    **{
        f"{command[0]} --seed {value}": [*command, "--seed", value]
        for command in (["bench"], ["train", "{folder}", "--out", "{folder}/run"], ["demo", "train", "{folder}/run"])
        for value in (HUGE, "-1")
    },
    "a prompt of more digits than Python reads": ["bench", "--prompt", "9" * 5000],
    "a wide image": ["bench", "--image-size", "100000x1"],
    "no tokens": ["analyse", "--out", "{folder}/run", "--keep", "0"],
}  # fmt: skip


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES.keys())
def test_a_number_that_cannot_be_is_refused_before_a_model_is_loaded(
    run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr(models, "load_model", None)
    result = run(*(argument.format(picture=picture, folder=tmp_path) for argument in arguments))
    assert result.code in (1, 2)
    assert result.out == ""
    assert "Traceback" not in result.err
    assert result.code == 2 or result.err.count("\n") == 1


def test_every_option_that_takes_a_fraction_refuses_what_is_not_finite() -> None:
    """Ranges let NaN through; so each such option has a check of its own, and a new one must not forget it."""
    options = [option for kind in (*COMMANDS.values(), *DEMO_COMMANDS.values(), *EXPORT_COMMANDS.values()) for option in options_of(kind)]
    found = {option.name: option.info.callback for option in options if float in (option.kind, *get_args(option.kind))}
    assert found.keys() >= {"--max-megapixels", "--hours", "--guidance", "--rate"}
    assert set(found.values()) == {finite}
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(typer.BadParameter, match="not a finite number"):
            finite(value)
