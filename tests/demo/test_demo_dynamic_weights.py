"""The shipped weights of the embedded model's variant with dynamic resolution: a second family, trained."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from tiny import reference_logits
from transformers import Qwen2VLForConditionalGeneration

pytest.importorskip("sklearn")

from foveate import FastV, Method, Pool, Random, TokenCarve, compress, demo
from foveate.demo.model.processing import DynamicProcessor
from foveate.engine.remembered import remembered_features
from foveate.measure.scenes import SceneQuestion, Score, attention_recall, chance, evaluate, samples, summary

NAME = "qwen2-vl"
UNSEEN = range(5000, 5008)  # not the seeds that the card was measured on


@cache
def loaded() -> tuple[Qwen2VLForConditionalGeneration, DynamicProcessor]:
    return demo.load(shape="qwen2-vl")


@cache
def asked() -> tuple[SceneQuestion, ...]:
    return tuple(sample for sample in samples(UNSEEN) if sample.question.family != "description")


@cache
def scores(method: Method | None = None) -> dict[str, Score]:
    model, processor = loaded()
    with remembered_features(model):
        if method is None:
            return summary(evaluate(model, processor, asked(), batch_size=32))
        with compress(model, method):
            return summary(evaluate(model, processor, asked(), batch_size=32))


class Masked:
    """The model as `reference_logits` calls it, with the positions that it gives pictures itself."""

    def __init__(self, grids: torch.Tensor) -> None:
        self.full, self.grids = loaded()[0], grids
        self.config, self.model = self.full.config, self.full.model

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, **options: Any) -> Any:
        kinds = (input_ids == self.config.image_token_id).int()
        places, _ = self.model.get_rope_index(input_ids, kinds, image_grid_thw=self.grids, attention_mask=attention_mask)
        return self.full(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=places,
            image_grid_thw=self.grids,
            mm_token_type_ids=kinds,
            **options,
        )


def test_the_weights_are_small_and_the_stock_class_loads_them() -> None:
    folder = demo.path(NAME)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16_500_000
    assert isinstance(loaded()[0], Qwen2VLForConditionalGeneration)
    with pytest.raises(ValueError, match=f"llava, {NAME}"):
        demo.path("another")


@pytest.mark.parametrize("method", [None, TokenCarve(keep=36), FastV(keep=18, layer=3), Random(keep=0.25), Pool(keep=36)], ids=repr)
@torch.no_grad()
def test_compressed_answers_equal_the_masked_full_model_whatever_the_sizes_of_the_pictures(method: Method | None) -> None:
    model, processor = loaded()
    scenes = [demo.scene(seed, "held_out") for seed in (0, 1)]
    pictures = [scenes[0].image, scenes[1].image.crop((30, 50, 30 + 196, 50 + 252))]
    texts = [demo.prompt(scenes[0].questions[0].text), demo.prompt("what does the sign say?")]
    inputs = processor(images=pictures, text=texts, padding=True, return_tensors="pt")
    width = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True, "eos_token_id": None}
    options["suppress_tokens"] = [model.config.image_token_id]
    if method is None:
        out, targets, layer = model.generate(**inputs, **options), [[torch.arange(144)], [torch.arange(63)]], 0
    else:
        with compress(model, method) as handle:
            out = model.generate(**inputs, **options)
        targets, layer = [[image.plan.target] for image in handle.report.images], method.layer
    assert [len(target[0]) for target in targets] == [144, 63]
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, out.sequences.shape[1] - width, dtype=torch.long)], dim=1)
    masked: Any = Masked(inputs["image_grid_thw"])
    expected = reference_logits(masked, out.sequences, mask, inputs["pixel_values"], width, targets, layer)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, width - 1 : -1], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(("family", "bar"), [("colour", 0.85), ("presence", 0.85), ("shape", 0.8), ("reading", 0.3), ("all", 0.7)])
def test_the_variant_sees(family: str, bar: float) -> None:
    assert scores()[family].share >= bar, scores()


def test_a_good_choice_of_half_the_tokens_costs_the_variant_little_and_a_random_one_more() -> None:
    full, chosen, random = (scores(method)["all"].right for method in (None, FastV(keep=72), Random(keep=72)))
    assert chosen >= full - 5
    assert random <= chosen - 3


def test_with_no_visual_token_left_after_the_usual_cut_the_variant_can_only_guess() -> None:
    left = scores(Random(keep=1, layer=2))
    assert left["all"].low <= chance(asked())["all"] + 0.05
    assert left["reading"].right == 0


def test_early_attention_of_the_variant_ranks_the_relevant_tokens_better_than_chance() -> None:
    assert attention_recall(*loaded(), asked()[:40])["all"] > 1.5 * 2 / 9


def test_the_card_of_the_variant_says_what_was_measured() -> None:
    figures = json.loads((demo.path(NAME) / "figures.json").read_text())
    card = (demo.path(NAME) / "README.md").read_text()
    assert "Attention was supervised" in card
    assert "from the weights of the embedded model in its first shape" in card
    for family, score in figures["full"].items():
        assert f"| {family} | {score['count']} | {score['right'] / score['count']:.3f} |" in card
