"""What compression means on the weights of a pretrained language model, with its sinks and its thirty layers.

The model is built by `foveate demo build --decoder smollm2 --tokens 144`; without it these tests are skipped.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")

from built_model import built, loaded
from tiny import reference_logits
from torch import Tensor
from transformers import CompileConfig

import foveate
from foveate import DivPrune, FastV, Method, Pool, TokenCarve
from foveate.demo.scenes import scene
from foveate.measure.analysis.one_picture import AskedAbout, OnePicture
from foveate.measure.scenes import SceneQuestion, evaluate, prompt_of
from foveate.methods import information_contribution

pytestmark = built
METHODS: list[Method] = [TokenCarve(36), TokenCarve(18, 12), FastV(36, 20), Pool(36, 0), DivPrune(18)]


def inputs(processor: Any, *questions: int) -> Any:
    """Questions about a held-out picture, as large as the model's."""
    side = processor.image_processor.crop_size["height"] // 14
    shown = scene(1, "held_out", side)
    texts = [prompt_of(processor, shown.questions[number].text) for number in questions]
    return processor(images=[shown.image] * len(texts), text=texts, padding=True, return_tensors="pt")


def pruned_and_masked(model: Any, given: Any, method: Method, steps: int) -> tuple[Tensor, Tensor]:
    """Logits (b, steps, v) of the compressed model, and of the full one to which the same tokens are hidden from the same layer on."""
    width, rows = given["input_ids"].shape[1], len(given["input_ids"])
    options = {"max_new_tokens": steps, "do_sample": False, "return_dict_in_generate": True, "output_logits": True, "eos_token_id": None}
    with foveate.compress(model, method) as handle:
        out = model.generate(**given, suppress_tokens=[model.config.image_token_id], **options)
    mask = torch.cat([given["attention_mask"], torch.ones(rows, out.sequences.shape[1] - width, dtype=torch.long)], dim=1)
    targets = [[image.plan.target] for image in handle.report.images]
    expected = reference_logits(model, out.sequences, mask, given["pixel_values"], width, targets, method.layer)
    return torch.stack(out.logits, 1), expected[:, width - 1 : -1]


@pytest.mark.parametrize("method", METHODS, ids=repr)
@torch.no_grad()
def test_pruning_equals_masking_in_float32(method: Method) -> None:
    model, processor = loaded()
    got, expected = pruned_and_masked(model, inputs(processor, 0, 3), method, 3)
    assert float(expected.abs().max()) > 5
    torch.testing.assert_close(got, expected, atol=2e-3, rtol=1e-3)


@torch.no_grad()
def test_pruning_equals_masking_in_bfloat16() -> None:
    model, processor = loaded(torch.bfloat16)
    given = inputs(processor, 0).to(dtype=torch.bfloat16)
    got, expected = (logits.float() for logits in pruned_and_masked(model, given, FastV(36, 4), 1))
    exact, _ = pruned_and_masked(loaded()[0], inputs(processor, 0), FastV(36, 4), 1)
    # Two ways to compute the same thing in bfloat16 differ as much as either does from float32.
    rounding = float((expected - exact).abs().max())
    assert 0 < rounding < 2
    assert float((got - expected).abs().max()) <= 2 * rounding
    assert int(got.argmax()) == int(expected.argmax())


@torch.no_grad()
def test_fast_information_ranks_the_tokens_as_exact_information_does() -> None:
    model, processor = loaded()
    given = inputs(processor, 0)
    visual = given["input_ids"][0] == model.config.image_token_id
    states = model(**given, output_hidden_states=True, logits_to_keep=1).hidden_states
    for layer in (1, 2, 8, 16, 28):
        exact, fast = (information_contribution(states[layer][0, visual], kind) for kind in ("exact", "fast"))
        quarter = len(exact) // 4
        shared = torch.isin(exact.topk(quarter).indices, fast.topk(quarter).indices)
        assert float(shared.float().mean()) >= 0.85, layer
        ranks = torch.stack([scores.argsort().argsort().double() for scores in (exact, fast)])
        assert float(torch.corrcoef(ranks)[0, 1]) >= 0.95, layer


def test_static_and_compiled_decoding_give_the_tokens_of_a_dynamic_cache() -> None:
    model, processor = loaded()
    given, options = inputs(processor, 0, 3), {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    config = CompileConfig(backend="eager", fullgraph=True, mode=None)
    config._compile_all_devices = True
    torch._dynamo.reset()
    with foveate.compress(model, TokenCarve(36, 12)):
        dynamic, *others = (
            model.generate(**given, **options, **way)
            for way in ({}, {"cache_implementation": "static"}, {"cache_implementation": "static", "compile_config": config})
        )
    for other in others:
        assert other.sequences.equal(dynamic.sequences)
        torch.testing.assert_close(torch.stack(other.logits), torch.stack(dynamic.logits), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("method", [None, TokenCarve(36), FastV(36, 12)], ids=repr)
def test_questions_that_share_a_picture_are_answered_as_by_generate(method: Method | None) -> None:
    model, processor = loaded()
    side = processor.image_processor.crop_size["height"] // 14
    shown = scene(1, "held_out", side)
    asked = [
        SceneQuestion(1, shown.image, question) for question in shown.questions if question.family in ("colour", "shape", "size", "side")
    ]
    one = OnePicture(model, processor, shown.image, [AskedAbout(sample.question.text, sample.question.answer) for sample in asked])
    if method is None:
        assert one.right == [answer.right for answer in evaluate(model, processor, asked)]
        assert one.ask_blind() == [answer.right for answer in evaluate(model, processor, asked, without_image=True)]
        return
    plans = method.plans([one.view(method.layer, number) for number in range(len(asked))])
    with foveate.compress(model, method) as handle:
        answers = evaluate(model, processor, asked)
    assert [image.plan for image in handle.report.images] == plans
    assert one.ask(method.layer, plans)[0] == [answer.right for answer in answers]
