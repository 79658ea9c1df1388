"""`foveate ask` on a small model in a folder."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from small_model import CONTEXT, TOKENS, Run
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from foveate import Report, TokenCarve, compress
from foveate.errors import InputError
from foveate.families import regions_of
from foveate.images import load_image

QUESTION = "what colour is the circle ?"


def test_it_answers_and_shows_what_compression_saved(run: Run, picture: Path, model: Path) -> None:
    result = run("ask", picture, QUESTION, "--model", model, "--keep", 9, "--max-new-tokens", 4)
    assert result.code == 0
    assert result.out.splitlines()[0].strip()
    assert f"9 of {TOKENS}" in result.out
    for row in ("key/value cache", "vision tower", "prefill", "first token after", "decode, per token"):
        assert row in result.out
    assert "cold run" in result.out


def test_the_json_has_every_figure_and_nothing_else_is_on_stdout(run: Run, picture: Path, model: Path) -> None:
    result = run("ask", picture, QUESTION, "--model", model, "--keep", 0.25, "--max-new-tokens", 4, "--compare", "--json")
    data = result.data
    assert result.code == 0
    assert data["visual_tokens"] == data["full"]["visual_tokens"] == TOKENS
    assert data["compressed"]["visual_tokens"] == TOKENS // 4
    assert data["agree"] == (data["compressed"]["answer"] == data["full"]["answer"])
    assert data["method"]["name"] == "tokencarve"
    assert data["method"]["keep"] == 0.25
    assert data["warmed_up"] is True
    for way in ("compressed", "full"):
        times = data[way]
        assert 0 < times["prefill_seconds"] < times["first_token_seconds"]
        assert times["vision_seconds"] > 0
        assert times["decode_seconds_per_token"] > 0
        assert times["new_tokens"] == 4
    assert data["compressed"]["method_seconds"] > 0


def test_the_cache_that_was_measured_is_the_one_that_the_report_speaks_of(run: Run, picture: Path, model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "report.json"
    asked = ["ask", picture, QUESTION, "--model", model, "--keep", 9, "--compare", "--report", saved]
    data = run(*asked, "--json", "--max-new-tokens", 3).data
    report = Report.load(saved)
    assert data["compressed"]["cache_bytes"] == report.cache_bytes_after
    assert data["full"]["cache_bytes"] == report.cache_bytes_before == data["cache_bytes_before"]


def test_the_answer_is_that_of_the_library(run: Run, picture: Path, model: Path) -> None:
    data = run("ask", picture, QUESTION, "--model", model, "--keep", 9, "--max-new-tokens", 6, "--compare", "--json").data
    processor = AutoProcessor.from_pretrained(model)
    whole = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    inputs = processor(images=load_image(picture).image, text=f"USER: <image>\n{QUESTION} ASSISTANT:", return_tensors="pt")

    def generate() -> str:
        output = whole.generate(**inputs, do_sample=False, max_new_tokens=6)
        return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    assert data["full"]["answer"] == generate()
    with compress(whole, TokenCarve(keep=9)):
        assert data["compressed"]["answer"] == data["answer"] == generate()


def test_the_full_model_can_run_alone(run: Run, picture: Path, model: Path) -> None:
    data = run("ask", picture, QUESTION, "--model", model, "--method", "none", "--max-new-tokens", 2, "--json").data
    assert data["compressed"] is None
    assert data["method"] is None
    assert data["full"]["visual_tokens"] == TOKENS
    assert data["answer"] == data["full"]["answer"]


def test_picture_and_report_are_written_and_the_picture_can_be_drawn_again(run: Run, picture: Path, model: Path, tmp_path: Path) -> None:
    first, saved, again = tmp_path / "kept.png", tmp_path / "report.json", tmp_path / "again.png"
    asked = run("ask", picture, QUESTION, "--model", model, "--keep", 9, "--picture", first, "--report", saved, "--max-new-tokens", 1)
    assert asked.code == 0
    assert f"written: {first}" in asked.out
    assert run("draw", saved, picture, again, "--model", model).code == 0
    assert Image.open(first).tobytes() == Image.open(again).tobytes()
    said = run("draw", saved, picture, again, "--crop", "center-square")
    assert said.code == 0
    assert said.err == ""
    assert Image.open(again).width > 100
    apart = run("draw", saved, picture, again)
    assert apart.code == 0
    assert "is not known" in apart.err
    assert Image.open(first).tobytes() != Image.open(again).tobytes()
    twice = run("draw", saved, picture, again, "--model", model, "--crop", "whole")
    assert twice.code == 1
    assert "omit one of them" in twice.err


def test_an_answer_is_not_lost_when_its_place_in_the_picture_cannot_be_told(
    run: Run, picture: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object, **__: object) -> None:
        raise InputError("the processor makes other parts")

    monkeypatch.setattr("foveate.families.regions_of", mistaken)
    drawn = tmp_path / "kept.png"
    for command in (["ask", picture, QUESTION, "--keep", 9], ["explain", picture, QUESTION, "--answer", "red"]):
        data = run(*command, "--model", model, "--picture", drawn, "--max-new-tokens", 1, "--json").data
        assert data["answer"] is not None
        assert "the tokens are drawn beside the picture: the processor makes other parts" in data["notes"]
        assert Image.open(drawn).width > 100
        drawn.unlink()


def test_lines_can_be_left_out_of_the_picture(run: Run, picture: Path, model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "with.png", tmp_path / "without.png"]
    for path, option in zip(paths, ("--lines", "--no-lines"), strict=True):
        run("ask", picture, QUESTION, "--model", model, "--keep", 9, "--picture", path, option, "--max-new-tokens", 1)
    assert Image.open(paths[0]).tobytes() != Image.open(paths[1]).tobytes()


def test_the_seed_reaches_methods_that_have_one_and_harms_no_other(run: Run, picture: Path, model: Path, tmp_path: Path) -> None:
    saved = tmp_path / "report.json"

    def kept(method: str, seed: int) -> list[int]:
        ask = run("ask", picture, QUESTION, "--model", model, "--method", method, "--keep", 9, "--seed", seed, "--report", saved)
        assert ask.code == 0
        return Report.load(saved).images[0].plan.to_list()

    assert kept("random", 1) == kept("random", 1) != kept("random", 2)
    assert kept("tokencarve", 1) == kept("tokencarve", 2)


def test_options_of_a_method_can_be_set(run: Run, picture: Path, model: Path) -> None:
    asked = ["ask", picture, QUESTION, "--model", model, "--keep", 9, "--json", "--max-new-tokens", 1]
    data = run(*asked, "--set", "stage_one=1", "--set", "source=attention_output", "--layer", 1).data
    assert data["method"]["stage_one"] == 1.0
    assert data["method"]["source"] == "attention_output"
    assert data["method"]["layer"] == 1


def test_repetitions_give_medians_and_say_so(run: Run, picture: Path, model: Path) -> None:
    result = run("ask", picture, QUESTION, "--model", model, "--keep", 9, "--repeat", 3, "--compare", "--max-new-tokens", 2)
    assert "medians of 3 runs" in result.out
    assert "after one warm-up" in result.out


def test_what_was_done_to_the_picture_is_said(run: Run, model: Path, tmp_path: Path) -> None:
    Image.new("RGBA", (60, 60), (255, 0, 0, 100)).save(tmp_path / "clear.png")
    asked = ["ask", tmp_path / "clear.png", QUESTION, "--model", model, "--keep", 9, "--max-new-tokens", 1]
    assert "note: the picture's transparent parts were laid on white" in run(*asked).err
    result = run(*asked, "--json")
    assert result.data["notes"] == ["the picture's transparent parts were laid on white"]
    assert result.err == ""


def test_the_grid_lies_over_what_this_processor_shows(model: Path, picture: Path) -> None:
    processor = AutoProcessor.from_pretrained(model)
    config = AutoConfig.from_pretrained(model)
    (region,) = regions_of(config, processor, Image.open(picture).size, ((1, 6, 6),))
    assert region.box == pytest.approx((30, 0, 130, 100), abs=1)


def test_a_question_beyond_the_context_is_refused_with_numbers(run: Run, picture: Path, model: Path) -> None:
    result = run("ask", picture, "colour " * 300, "--model", model)
    assert result.code == 1
    for number in (TOKENS, 300, CONTEXT):
        assert str(number) in result.err


def test_a_question_that_fits_only_without_its_answer_is_refused(run: Run, picture: Path, model: Path) -> None:
    asked = ["ask", picture, "colour " * (CONTEXT - TOKENS - 30), "--model", model, "--keep", 9]
    assert run(*asked, "--max-new-tokens", 60).code == 1
    assert run(*asked, "--max-new-tokens", 4).code == 0


def test_a_placeholder_in_the_question_is_refused(run: Run, picture: Path, model: Path) -> None:
    result = run("ask", picture, "what is <image> ?", "--model", model)
    assert result.code == 1
    assert "<image>" in result.err


def test_a_budget_above_the_tokens_is_refused_unless_clamped(run: Run, picture: Path, model: Path) -> None:
    asked = ["ask", picture, QUESTION, "--model", model, "--keep", 100, "--max-new-tokens", 1, "--json"]
    refused = run(*asked)
    assert refused.code == 1
    assert refused.out == ""
    assert "100" in refused.err
    assert "36" in refused.err
    assert run(*asked, "--clamp").data["compressed"]["visual_tokens"] == TOKENS


def test_markup_in_question_and_answer_is_taken_literally(run: Run, picture: Path, model: Path) -> None:
    assert run("ask", picture, "[red]what[/blue] colour [bold] ?", "--model", model, "--keep", 9, "--max-new-tokens", 1).code == 0


def test_a_picture_that_the_processor_crops_gets_a_note(run: Run, model: Path, tmp_path: Path) -> None:
    for size, noted in (((300, 100), True), ((100, 100), False)):
        Image.new("RGB", size, "red").save(tmp_path / "picture.png")
        data = run("ask", tmp_path / "picture.png", QUESTION, "--model", model, "--keep", 4, "--max-new-tokens", 1, "--json").data
        assert any("sees the middle 33%" in note for note in data["notes"]) == noted
        full = run("ask", tmp_path / "picture.png", QUESTION, "--model", model, "--method", "none", "--max-new-tokens", 1, "--json").data
        assert any("sees the middle 33%" in note for note in full["notes"]) == noted
