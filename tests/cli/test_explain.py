"""`foveate explain` on a small model in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from small_model import TOKENS, Run
from vila_release import TOKENS as FRAME_TOKENS

from foveate import Relevance, draw
from foveate.chat import models

QUESTION = "what colour is the circle ?"


def test_it_lists_the_tokens_that_the_answer_rests_on(run: Run, picture: Path, model: Path) -> None:
    result = run("explain", picture, QUESTION, "--model", model, "--max-new-tokens", 3, "--top", 4)
    assert result.code == 0
    assert result.out.splitlines()[0].strip()
    ranks = [line.split()[0] for line in result.out.splitlines() if "6 x 6" in line]
    assert ranks == ["1", "2", "3", "4"]


def test_the_json_holds_the_relevance_and_its_words(run: Run, picture: Path, model: Path) -> None:
    data = run("explain", picture, QUESTION, "--model", model, "--answer", "red circle", "--json", "--top", 5).data
    found = Relevance.from_dict(data["relevance"])
    assert data["answer"] == "red circle"
    assert data["words"] == [{"text": "red", "tokens": [0]}, {"text": "circle", "tokens": [1]}]
    assert data["visual_tokens"] == TOKENS == found.images[0].tokens.shape[1]
    mean = found.images[0].mean
    assert [entry["token"] for entry in data["top"][0]] == mean.argsort(descending=True)[:5].tolist()
    for entry in data["top"][0]:
        assert entry["token"] == entry["row"] * 6 + entry["column"]
        assert entry["share"] == pytest.approx(float(mean[entry["token"]] / mean.sum()))


def test_target_and_gradients_reach_the_library(run: Run, picture: Path, model: Path) -> None:
    asked = ["explain", picture, QUESTION, "--model", model, "--answer", "red", "--json"]
    other = run(*asked, "--target", "log_probability", "--no-gradients").data["relevance"]
    assert (other["target"], other["gradients"]) == ("log_probability", False)
    assert other["images"] != run(*asked).data["relevance"]["images"]


def test_the_picture_has_a_panel_for_every_word_up_to_seven(run: Run, picture: Path, model: Path, tmp_path: Path) -> None:
    sizes = {}
    for words in ("red", "red circle yes", "red circle yes no one two red red red red"):
        path = tmp_path / f"{len(words)}.png"
        result = run("explain", picture, QUESTION, "--model", model, "--answer", words, "--picture", path, "--top", 3)
        assert result.code == 0
        assert f"written: {path}" in result.out
        sizes[len(words.split())] = Image.open(path).size
    assert sizes[1][1] < sizes[3][1] < sizes[10][1]  # one, two and three rows of panels


def test_a_video_is_explained_frame_by_frame(
    run: Run, clip: Path, frames_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Relevance] = []
    real = draw.relevance

    def note(found: Relevance, *rest: Any, **options: Any) -> Image.Image:
        drawn.append(found)
        return real(found, *rest, **options)

    monkeypatch.setattr(draw, "relevance", note)
    asked = ["explain", clip, QUESTION, "--model", frames_model, "--frames", 3, "--answer", "red", "--top", 2, "--json"]
    data = run(*asked, "--picture", tmp_path / "why.png").data
    frames = Relevance.from_dict(data["relevance"]).images
    assert len(data["top"]) == len(frames) == 3  # this model is shown each frame as an image of its own
    assert data["visual_tokens"] == 3 * FRAME_TOKENS
    assert [image.mean.tolist() for image in drawn[0].images] == [pytest.approx(frame.mean.tolist()) for frame in frames]


CASES = {
    "empty question": (["explain", "{picture}", " "], "question is empty"),
    "missing picture": (["explain", "{folder}/nope.png", QUESTION], "no such picture file"),
    "empty answer": (["explain", "{picture}", QUESTION, "--answer", " "], "answer is empty"),
    "output over the input": (["explain", "{picture}", QUESTION, "--picture", "{picture}"], "would replace the input"),
    "output without a kind": (["explain", "{picture}", QUESTION, "--picture", "{folder}/x.gif"], ".png, .jpg, .jpeg, .webp"),
}


@pytest.mark.parametrize(("arguments", "expected"), CASES.values(), ids=CASES.keys())
def test_what_is_wrong_is_said_in_one_line_before_a_model_is_loaded(
    run: Run, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded for a request that could have been refused before")

    monkeypatch.setattr(models, "load_model", refuse)
    result = run(*(argument.format(picture=picture, folder=tmp_path) for argument in arguments))
    assert result.code == 1
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert expected in result.err


def test_an_answer_that_the_model_cannot_say_is_refused(run: Run, picture: Path, model: Path) -> None:
    result = run("explain", picture, QUESTION, "--model", model, "--answer", "xylophone")
    assert result.code == 1
    assert "cannot say" in result.err


@pytest.mark.parametrize("arguments", [["--top", "0"], ["--target", "loss"], ["--nope"]])
def test_wrong_usage_of_explain_has_exit_code_2(run: Run, arguments: list[str]) -> None:
    assert run("explain", "x.png", "?", *arguments).code == 2
