"""Compression means masking on trained weights too, whose attention is far from uniform."""

from __future__ import annotations

import pytest
import torch
from tiny import reference_logits

import foveate
import foveate.demo
from foveate import Explainer, FastV, Method, Pool, Random, TokenCarve


@pytest.fixture(scope="module")
def model_and_processor():  # noqa: ANN201
    return foveate.demo.load()


@pytest.mark.parametrize(
    "method",
    [TokenCarve(keep=128), TokenCarve(keep=64, layer=4), FastV(keep=64), Random(keep=0.1), Pool(keep=100), Explainer(keep=0.25)],
    ids=repr,
)
def test_compressed_answers_equal_the_masked_full_model(model_and_processor, method: Method) -> None:  # noqa: ANN001
    model, processor = model_and_processor
    scenes = [foveate.demo.scene(seed, "held_out") for seed in (0, 1)]
    questions = [scenes[0].questions[0].text, scenes[1].questions[-1].text]
    texts = [foveate.demo.prompt(question) for question in questions]
    inputs = processor(images=[scene.image for scene in scenes], text=texts, padding=True, return_tensors="pt")
    width = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True, "output_logits": True, "eos_token_id": None}
    with foveate.compress(model, method) as handle:
        out = model.generate(**inputs, suppress_tokens=[model.config.image_token_id], **options)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, out.sequences.shape[1] - width, dtype=torch.long)], dim=1)
    targets = [[image.plan.target] for image in handle.report.images]
    assert {len(target[0]) for target in targets} == {576}
    expected = reference_logits(model, out.sequences, mask, inputs["pixel_values"], width, targets, method.layer)
    got = torch.stack(out.logits, 1)
    torch.testing.assert_close(got, expected[:, width - 1 : -1], atol=2e-3, rtol=1e-3)
