"""Bad input: one clear line on stderr, nothing on stdout, the right exit code, and before anything slow happens."""

from pathlib import Path

import pytest
from small_model import Run

from foveate.chat import models

QUESTION = "what colour is the circle ?"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded for a request that could have been refused before")

    monkeypatch.setattr(models, "load_model", refuse)


CASES = {
    "empty question": (["ask", "{picture}", ""], "question is empty"),
    "blank question": (["ask", "{picture}", " \t\n"], "question is empty"),
    "missing picture": (["ask", "{folder}/nope.png", QUESTION], "no such picture file"),
    "folder as picture": (["ask", "{folder}", QUESTION], "is a folder"),
    "unknown method": (["ask", "{picture}", QUESTION, "--method", "tokencrave"], "did you mean 'tokencarve'"),
    "keep zero": (["ask", "{picture}", QUESTION, "--keep", "0"], "keep=0"),
    "keep negative": (["ask", "{picture}", QUESTION, "--keep", "-5"], "keep=-5"),
    "keep nan": (["ask", "{picture}", QUESTION, "--keep", "nan"], "keep=nan"),
    "keep above one": (["ask", "{picture}", QUESTION, "--keep", "1.5"], "keep=1.5"),
    "layer negative": (["ask", "{picture}", QUESTION, "--layer", "-1"], "layer=-1"),
    "a budget in the method's spelling": (
        ["ask", "{picture}", QUESTION, "--method", "fastv:keep=64"],
        "pass keep for all methods (--keep)",
    ),
    "unknown setting": (["ask", "{picture}", QUESTION, "--method", "tokencarve:stage_on=1"], "did you mean 'stage_one'"),
    "setting without value": (["ask", "{picture}", QUESTION, "--method", "tokencarve:stage_one"], "name=value"),
    "setting of the wrong kind": (["ask", "{picture}", QUESTION, "--method", "tokencarve:stage_one=much"], "stage_one=much"),
    "setting out of range": (["ask", "{picture}", QUESTION, "--method", "tokencarve:stage_one=9"], "stage_one=9"),
    "output in no folder": (["ask", "{picture}", QUESTION, "--picture", "{folder}/nope/x.png"], "there is no folder"),
    "output without a kind": (["ask", "{picture}", QUESTION, "--picture", "{folder}/x.gif"], ".png, .jpg, .jpeg, .webp"),
    "output is a folder": (["ask", "{picture}", QUESTION, "--report", "{folder}"], "it is a folder"),
    "output over the input": (["ask", "{picture}", QUESTION, "--picture", "{picture}"], "would replace the input"),
    "one output over another": (
        ["ask", "{picture}", QUESTION, "--picture", "{folder}/x.png", "--report", "{folder}/x.png"],
        "would replace another output",
    ),
    "picture of the full model": (["ask", "{picture}", QUESTION, "--method", "none", "--picture", "{folder}/x.png"], "needs a method"),
    "too many pixels": (["ask", "{picture}", QUESTION, "--max-megapixels", "0.001"], "--max-megapixels"),
    "drawing no report": (["draw", "{picture}", "{picture}", "{folder}/x.png"], "not a foveate report"),
    "drawing over the report": (["draw", "{folder}/r.png", "{picture}", "{folder}/r.png"], "would replace the input"),
}


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize(("arguments", "expected"), CASES.values(), ids=CASES.keys())
def test_bad_input_is_refused_with_one_line_and_exit_code_1(
    run: Run, picture: Path, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    result = run(*(argument.format(picture=picture, folder=tmp_path) for argument in arguments))
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert expected in result.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["aks"],
        ["ask"],
        ["ask", "x.png"],
        ["ask", "x.png", "?", "--keep", "many"],
        ["ask", "x.png", "?", "--dtype", "int4"],
        ["ask", "x.png", "?", "--layer", "two"],
        ["ask", "x.png", "?", "--max-new-tokens", "0"],
        ["ask", "x.png", "?", "--nope"],
        ["draw", "r.json", "x.png", "y.png", "--crop", "round"],
    ],
)
def test_wrong_usage_has_exit_code_2(run: Run, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.code == 2


def test_a_mistyped_command_is_corrected(run: Run) -> None:
    assert run("aks").err == "error: no such command 'aks'; did you mean 'ask'? see foveate --help\n"


def test_a_mistyped_option_is_corrected(run: Run) -> None:
    assert run("ask", "x.png", "?", "--kep", 3).err == "error: no such option: --kep; did you mean '--keep'? see foveate ask --help\n"


def test_a_missing_model_folder_is_refused(run: Run, picture: Path, tmp_path: Path) -> None:
    result = run("ask", picture, QUESTION, "--model", tmp_path / "nope")
    assert result.code == 1
    assert "no such model folder" in result.err


def test_a_folder_without_a_model_is_refused(run: Run, picture: Path, tmp_path: Path) -> None:
    result = run("ask", picture, QUESTION, "--model", tmp_path)
    assert result.code == 1
    assert "has no config.json" in result.err


def test_a_model_of_no_known_family_is_refused_before_its_weights_are_read(run: Run, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    result = run("ask", picture, QUESTION, "--model", tmp_path)
    assert result.code == 1
    assert "'bert'" in result.err
    assert "llava" in result.err


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(run: Run, picture: Path, model: Path, device: str) -> None:
    result = run("ask", picture, QUESTION, "--model", model, "--device", device)
    assert result.code == 1
    assert device in result.err


def test_a_layer_that_the_model_has_not_is_refused(run: Run, picture: Path, model: Path) -> None:
    result = run("ask", picture, QUESTION, "--model", model, "--layer", 77)
    assert result.code == 1
    assert "layer=77" in result.err
