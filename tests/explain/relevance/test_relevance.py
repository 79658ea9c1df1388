"""Relevance is the recursion over eager attention, costs no map, and leaves the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from relevance_oracle import closeness, oracle
from tiny import IMAGE, TOKENS, VOCABULARY, alone, batch, prompt, tiny_llava
from torch import Tensor
from transformers import AttentionInterface, MistralConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward

import foveate
import foveate.demo
from foveate import FastV, Relevance
from foveate.errors import FoveateError, HandleError, InputError, OptionError, UnsupportedModelError

ROWS = [prompt(3, "image", 5), prompt(2, "image", 4, "image", 6, seed=1)]
ANSWERS = [[7, 31, 12], [44]]


def columns(ids: Tensor) -> list[Tensor]:
    return list((ids[0] == IMAGE).nonzero().squeeze(1).split(TOKENS))


def error(model: Any, inputs: dict[str, Tensor], answers: list[list[int]], found: Relevance, **options: Any) -> float:
    """The largest error of any image, against the oracle on each row alone."""
    worst = 0.0
    for row, answer in enumerate(answers):
        single = alone(inputs, row)
        truth = oracle(model, single, columns(single["input_ids"]), answer, **options)
        own = [image for image in found.images if image.row == row]
        assert len(own) == len(truth)
        worst = max(worst, *(closeness(image.tokens, expected) for image, expected in zip(own, truth, strict=True)))
    return worst


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("options", [{}, {"target": "log_probability"}, {"gradients": False}], ids=str)
def test_it_is_the_recursion_in_a_batch_with_several_images(padding: str, options: dict[str, Any]) -> None:
    model, inputs = tiny_llava(), batch(ROWS, padding=padding)
    assert error(model, inputs, ANSWERS, foveate.relevance(model, inputs, ANSWERS, **options), **options) < 1e-4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_in_double_precision_it_is_better(attention: str, key_heads: int) -> None:
    model = tiny_llava(dtype=torch.float64, attention=attention, key_heads=key_heads)
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in batch(ROWS).items()}
    # The result is rounded to float32, and transformers' eager softmax is float32 whatever the model is.
    assert error(model, inputs, ANSWERS, foveate.relevance(model, inputs, ANSWERS)) < 2e-6


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_the_size_of_blocks_changes_nothing(block: int) -> None:
    model, inputs = tiny_llava(), batch(ROWS)
    for gradients in (True, False):
        whole = foveate.relevance(model, inputs, ANSWERS, gradients=gradients)
        blocks = foveate.relevance(model, inputs, ANSWERS, gradients=gradients, block=block)
        for image, other in zip(whole.images, blocks.images, strict=True):
            torch.testing.assert_close(image.tokens, other.tokens, rtol=1e-4, atol=1e-6)


def test_answers_longer_than_one_walk_are_the_recursion_too() -> None:
    model, inputs, answer = tiny_llava(), batch(ROWS[:1]), [[5, 6, 7, 8, 9, 10, 11, 12, 13]]
    assert error(model, inputs, answer, foveate.relevance(model, inputs, answer)) < 1e-4


def test_a_sliding_window_is_followed() -> None:
    model, inputs = tiny_llava(decoder=MistralConfig, sliding_window=6, layers=3), batch(ROWS)
    found = foveate.relevance(model, inputs, ANSWERS)
    assert error(model, inputs, ANSWERS, found) < 1e-4
    assert torch.count_nonzero(found.images[0].tokens) < found.images[0].tokens.numel()


def test_what_lies_between_layers_takes_part() -> None:
    model, inputs = tiny_llava(), batch(ROWS[:1])
    layers, seen = model.model.language_model.layers, []
    layers[0].register_forward_hook(lambda module, args, output: seen.append(output))
    layers[2].register_forward_pre_hook(lambda module, args: (args[0] * 0.5 + seen.pop(), *args[1:]))
    assert error(model, inputs, ANSWERS[:1], foveate.relevance(model, inputs, ANSWERS[:1])) < 1e-4


def test_the_embedded_model_is_no_exception() -> None:
    model, processor = foveate.demo.load()
    scene = foveate.demo.scene(11, "held_out")
    inputs = processor(images=scene.image, text=foveate.demo.prompt(scene.questions[0].text), return_tensors="pt")
    answer = processor.tokenizer(scene.questions[0].answer, add_special_tokens=False)["input_ids"]
    image = foveate.relevance(model, inputs, [answer]).images[0]
    columns = (inputs["input_ids"][0] == model.config.image_token_id).nonzero().squeeze(1)
    (truth,) = oracle(model, dict(inputs), [columns], answer)
    assert image.grid == (1, 24, 24)
    assert closeness(image.tokens, truth) < 1e-4


def test_without_an_answer_it_explains_what_the_model_says() -> None:
    model, inputs = tiny_llava(), batch(ROWS)
    new = model.generate(**inputs, do_sample=False, max_new_tokens=3)[:, inputs["input_ids"].shape[1] :]
    model.generation_config.eos_token_id = [int(new[1, 1])]
    model.generation_config.do_sample, model.generation_config.num_beams = True, 3
    found = foveate.relevance(model, inputs, max_new_tokens=3)
    assert [answer.tolist() for answer in found.answers] == [new[0].tolist(), new[1, :1].tolist()]
    given = foveate.relevance(model, batch(ROWS, padding="right"), found.answers)
    for image, other in zip(found.images, given.images, strict=True):
        torch.testing.assert_close(image.tokens, other.tokens)


def test_bfloat16_is_close() -> None:
    inputs = batch(ROWS)
    exact = foveate.relevance(tiny_llava(), inputs, ANSWERS)
    low = {name: value.bfloat16() if value.is_floating_point() else value for name, value in inputs.items()}
    found = foveate.relevance(tiny_llava(dtype=torch.bfloat16), low, ANSWERS)
    for image, other in zip(found.images, exact.images, strict=True):
        assert image.tokens.dtype == torch.float32
        assert float(torch.corrcoef(torch.stack([image.mean, other.mean]))[0, 1]) > 0.98


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_gives_the_same(dtype: torch.dtype) -> None:
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch(ROWS).items()}
    expected = foveate.relevance(tiny_llava(dtype=dtype), inputs, ANSWERS)
    there = {name: value.cuda() for name, value in inputs.items()}
    found = foveate.relevance(tiny_llava(dtype=dtype).cuda(), there, ANSWERS)
    for image, other in zip(found.images, expected.images, strict=True):
        assert closeness(image.tokens, other.tokens) < (1e-3 if dtype == torch.float32 else 0.1)


def state(model: Any) -> Any:
    """Everything that relevance touches for a while."""
    return (
        [module.training for module in model.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in model.parameters()],
        [(id(getattr(module, "config", None)), sorted(module.__dict__)) for module in model.modules()],
        [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()],
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    model, inputs = tiny_llava(), batch(ROWS)
    model.train()
    model.model.vision_tower.eval()
    model.lm_head.weight.requires_grad_(False)
    model(**inputs)  # transformers itself leaves a mark on a model that has run
    before = state(model)
    with torch.inference_mode():
        if fails:
            monkeypatch.setattr(model.model.language_model.layers[1].mlp.act_fn, "forward", lambda x: x / 0 * 0)
            with pytest.raises(FoveateError, match="not numbers"):
                foveate.relevance(model, inputs, ANSWERS)
            monkeypatch.undo()
        else:
            foveate.relevance(model, inputs, ANSWERS)
    assert state(model) == before


def test_a_layer_is_computed_once_more_for_up_to_four_answer_tokens_and_keeps_no_map() -> None:
    model, inputs, calls = tiny_llava(), batch([prompt(30, "image", 30)]), []
    model.model.language_model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    length = inputs["input_ids"].shape[1] + 3
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        foveate.relevance(model, inputs, ANSWERS[:1])
    assert calls == [False, True]
    assert max(kept) <= length * VOCABULARY
    assert max(kept) < length**2


def test_it_goes_to_json_and_back(tmp_path: Path) -> None:
    found = foveate.relevance(tiny_llava(), batch(ROWS), ANSWERS, target="log_probability", gradients=True)
    found.save(tmp_path / "relevance.json")
    again = Relevance.load(tmp_path / "relevance.json")
    assert again.to_dict() == found.to_dict()
    assert [image.map().shape for image in again.images] == [(1, 4, 4)] * 3
    assert torch.equal(again.images[0].map(2).flatten(), found.images[0].tokens[2])
    assert torch.equal(again.images[0].mean, found.images[0].tokens.mean(0))
    assert list(tmp_path.iterdir()) == [tmp_path / "relevance.json"]
    with pytest.raises(ValueError, match="not a foveate relevance"):
        Relevance.from_json("[]")


REFUSALS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no answer": ({"answer": [[7], []]}, InputError, "row 1 is empty"),
    "too few answers": ({"answer": [[7]]}, InputError, "2 in all; got 1"),
    "no ids": ({"answer": [["cat"], [1]]}, InputError, "must be token ids"),
    "out of the vocabulary": ({"answer": [[7], [VOCABULARY]]}, InputError, f"0..{VOCABULARY - 1}"),
    "negative": ({"answer": [[-1], [3]]}, InputError, "token id -1"),
    "an image as answer": ({"answer": [[7], [IMAGE]]}, InputError, "stands for an image"),
    "another target": ({"target": "loss"}, OptionError, "log_probability"),
    "no rows at once": ({"block": 0}, OptionError, "block=0"),
    "no new tokens": ({"max_new_tokens": 0}, OptionError, "max_new_tokens=0"),
}


@pytest.mark.parametrize(("options", "kind", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_what_cannot_be_explained_is_refused(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        foveate.relevance(tiny_llava(layers=1), batch(ROWS), **{"answer": ANSWERS, **options})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pixel_values": None, "input_ids": torch.full((1, 4), 7), "attention_mask": None}, "these inputs have none"),
        ({"inputs_embeds": torch.zeros(1, 4, 32)}, "without inputs_embeds"),
        ({"position_ids": torch.zeros(1, 4)}, "without position_ids"),
        ({"attention_mask": torch.ones(1, 1, 4, 4)}, "2-D mask"),
        ({"input_ids": torch.zeros(1, 0, dtype=torch.long)}, "input_ids must be"),
        ({"pixel_values": torch.full((1, 3, 28, 28), float("nan"))}, "not numbers"),
    ],
)
def test_inputs_that_cannot_be_right_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        foveate.relevance(tiny_llava(layers=2), {**batch(ROWS[:1]), **changed}, ANSWERS[:1])


def test_a_compressed_model_is_refused_until_the_handle_is_gone() -> None:
    model, inputs = tiny_llava(), batch(ROWS)
    with foveate.compress(model, FastV(keep=4)), pytest.raises(HandleError, match=r"remove\(\)"):
        foveate.relevance(model, inputs, ANSWERS)
    assert len(foveate.relevance(model, inputs, ANSWERS).images) == 3


def test_a_kernel_that_computes_something_else_is_refused() -> None:
    def with_sink(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        output, weights = sdpa_attention_forward(module, query, key, value, mask, **options)
        return output * 0.8, weights

    AttentionInterface.register("test_with_sink", with_sink)
    model = tiny_llava()
    model.config.text_config._attn_implementation_internal = "test_with_sink"
    with pytest.raises(UnsupportedModelError, match="no sinks or biases"):
        foveate.relevance(model, batch(ROWS[:1]), ANSWERS[:1])
