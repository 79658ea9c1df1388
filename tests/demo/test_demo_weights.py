"""The shipped weights of the embedded model."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

pytest.importorskip("sklearn")

from foveate import Random, compress, demo
from foveate.measure.scenes import Score, attention_recall, chance, evaluate, samples, summary, wilson

UNSEEN = range(5000, 5020)  # not the seeds that the card was measured on


@cache
def loaded() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    return demo.load()


@cache
def scores() -> dict[str, Score]:
    return summary(evaluate(*loaded(), samples(UNSEEN), batch_size=16))


def test_the_weights_are_small_and_complete() -> None:
    folder = demo.path()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16_500_000
    assert {"config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "README.md"} <= {
        file.name for file in folder.iterdir()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_stock_classes_load_them(dtype: torch.dtype) -> None:
    model = AutoModelForImageTextToText.from_pretrained(demo.path(), dtype=dtype)
    processor = AutoProcessor.from_pretrained(demo.path())
    assert isinstance(model, LlavaForConditionalGeneration)
    assert model.dtype == dtype
    assert model.config.image_token_id == processor.image_token_id
    assert len(model.model.language_model.layers) >= 8


@pytest.mark.parametrize(
    ("family", "bar"), [("colour", 0.85), ("presence", 0.85), ("shape", 0.8), ("word", 0.5), ("number", 0.6), ("hop", 0.4), ("all", 0.65)]
)
def test_it_sees(family: str, bar: float) -> None:
    assert scores()[family].share >= bar, scores()


def test_without_the_image_it_can_only_guess() -> None:
    asked = samples(UNSEEN)
    blind = summary(evaluate(*loaded(), asked, batch_size=64, without_image=True))["all"]
    assert blind.low <= chance(asked)["all"] + 0.03


def test_with_no_visual_token_left_after_the_usual_cut_it_can_only_guess() -> None:
    asked = [sample for sample in samples(UNSEEN) if sample.question.family in ("colour", "shape", "word", "number", "digit", "hop")]
    with compress(loaded()[0], Random(keep=1, layer=2)):
        left = summary(evaluate(*loaded(), asked, batch_size=16))
    guessed = chance(asked)
    assert left["all"].low <= guessed["all"] + 0.05
    assert left["reading"].right == 0


def test_early_attention_ranks_the_relevant_patches_better_than_chance() -> None:
    assert attention_recall(*loaded(), samples(UNSEEN[:4]))["all"] > 1.5 * 128 / 576


def test_the_card_says_what_was_measured() -> None:
    figures = json.loads((demo.path() / "figures.json").read_text())
    card = (demo.path() / "README.md").read_text()
    for family, score in figures["full"].items():
        assert f"| {family} | {score['count']} | {score['right'] / score['count']:.3f} |" in card


def test_a_scene_and_its_prompt_are_all_that_a_first_try_needs() -> None:
    model, processor = loaded()
    example = demo.scene(7, split="held_out")
    inputs = processor(images=example.image, text=demo.prompt(example.questions[0].text), return_tensors="pt")
    output = model.generate(**inputs)
    assert processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_wilson_intervals_hold_the_share_and_stay_within_zero_and_one() -> None:
    assert wilson(0, 10).low == 0.0
    assert wilson(10, 10).high == pytest.approx(1.0)
    score = wilson(50, 100)
    assert (round(score.low, 3), round(score.high, 3)) == (0.404, 0.596)
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)
