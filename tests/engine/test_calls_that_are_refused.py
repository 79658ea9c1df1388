"""Ways of calling a compressed model that would be wrong in silence: right, or refused before work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny import SPARSE, Fixed, batch, generate, keep_target, pixels, prompt, tiny_llava
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.modeling_layers import GradientCheckpointingLayer

import foveate
from foveate import FastV, Pool, Random, TokenCarve
from foveate.errors import InputError, UnsupportedError

ENDS = prompt(4, "image")
TWO = prompt(3, "image", 5) + prompt(2, "image", 4, seed=1)
PACKED = {"input_ids": torch.tensor([TWO]), "pixel_values": pixels(2)}
RESTARTING = torch.cat([torch.arange(24), torch.arange(22)])[None]


def counted(module: nn.Module) -> list[int]:
    ran: list[int] = []
    module.register_forward_hook(lambda *_: ran.append(1))
    return ran


@pytest.mark.parametrize("keep", [4, 1.0])
@pytest.mark.parametrize(
    "packing",
    [
        {"position_ids": RESTARTING},
        {"position_ids": torch.arange(46)[None] + (torch.arange(46) > 30)},
        {"cu_seq_lens_q": torch.tensor([0, 24, 46]), "cu_seq_lens_k": torch.tensor([0, 24, 46])},
    ],
    ids=["restart", "gap", "bounds"],
)
def test_rows_of_several_samples_are_refused_before_the_tower_runs(packing: dict[str, Tensor], keep: int | float) -> None:
    model = tiny_llava()
    ran = counted(model.model.vision_tower)
    with foveate.compress(model, FastV(keep=keep)), torch.no_grad(), pytest.raises(UnsupportedError, match="several samples into one row"):
        model(**PACKED, **packing, use_cache=False)
    assert not ran


def test_packed_text_runs_as_ever() -> None:
    model, ids = tiny_llava(), torch.tensor([prompt(6) + prompt(5, seed=1)])
    positions = torch.cat([torch.arange(6), torch.arange(5)])[None]
    with torch.no_grad():
        expected = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        with foveate.compress(model, FastV(keep=4)):
            assert torch.equal(model(input_ids=ids, position_ids=positions, use_cache=False).logits, expected)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_prompt_that_ends_with_the_picture_is_refused(padding: str) -> None:
    model = tiny_llava()
    ran = counted(model.model.language_model.layers[0])
    inputs = batch([prompt(3, "image", 5), ENDS], padding=padding)
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        with pytest.raises(InputError, match=r"row 1 ends with a visual token.*at least one token of text"):
            model(**inputs)
        with pytest.raises(InputError, match="row 1 ends with a visual token"):
            generate(model, inputs)
    assert not ran


def test_a_prompt_that_ends_with_the_picture_is_right_where_all_of_it_stays() -> None:
    model, inputs = tiny_llava(), batch([ENDS, prompt(2, "image", seed=1)])
    expected = generate(model, inputs)
    for method in (FastV(keep=1.0), Random(keep=99, clamp=True)):
        with foveate.compress(model, method):
            torch.testing.assert_close(torch.stack(generate(model, inputs).logits), torch.stack(expected.logits), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("asked", [{"output_router_logits": True}, {}], ids=["in the call", "in the configuration"])
def test_router_logits_are_refused_before_any_layer_runs(asked: dict[str, Any]) -> None:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}
    model = tiny_llava(decoder=MixtralConfig, output_router_logits=not asked, **experts)
    ran = counted(model.model.language_model.layers[0])
    inputs = batch([prompt(3, "image", 5)])
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        with pytest.raises(UnsupportedError, match="output_router_logits"):
            model(**inputs, **asked)
        assert not ran
        if asked:
            assert model(**inputs).logits.shape[1] == 12


HOLES = {"input_ids": torch.tensor([prompt(3, "image", 5)]), "pixel_values": pixels(1)}


def hidden(*columns: int) -> dict[str, Tensor]:
    mask = torch.ones(1, 24, dtype=torch.long)
    mask[0, list(columns)] = 0
    return {**HOLES, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


@pytest.mark.parametrize("columns", [range(3, 19), [4], [7, 12]], ids=["the whole picture", "a target", "some"])
@pytest.mark.parametrize("method", [Pool(keep=4), TokenCarve(keep=4)], ids=repr)
def test_hidden_visual_tokens_are_not_merged(columns: Any, method: foveate.Method) -> None:
    with foveate.compress(tiny_llava(), method) as handle, torch.no_grad(), pytest.raises(InputError, match="hides visual tokens of row 0"):
        handle.model(**hidden(*columns))


def test_hidden_visual_tokens_are_as_in_the_full_model_where_nothing_is_merged() -> None:
    model, inputs = tiny_llava(), hidden(*range(3, 19))
    with torch.no_grad():
        expected = model(**inputs).logits[:, -5:]
        with foveate.compress(model, FastV(keep=4)):
            torch.testing.assert_close(model(**inputs).logits[:, -5:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("columns", [range(3, 19), range(7, 13)], ids=["the whole picture", "a part"])
def test_several_cuts_take_no_other_token_for_one_that_the_mask_hides(columns: range) -> None:
    cuts = [Random(keep=12, layer=1), Random(keep=4, layer=2)]
    with foveate.compress(tiny_llava(), cuts) as handle, torch.no_grad():
        handle.model(**hidden(*columns))
        kept = {3 + token for token in handle.report.images[0].plan.kept.tolist()} - {*columns}
        assert handle.report.columns[0] == (0, 1, 2, *sorted(kept), 19, 20, 21, 22, 23)


def test_several_cuts_of_a_hidden_picture_are_as_in_the_full_model() -> None:
    model, inputs = tiny_llava(), hidden(*range(3, 19))
    with torch.no_grad():
        expected = model(**inputs).logits[:, -5:]
        with foveate.compress(model, [FastV(keep=12, layer=1), FastV(keep=8, layer=2), FastV(keep=4, layer=3)]):
            torch.testing.assert_close(model(**inputs).logits[:, -5:], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_method_that_calls_its_own_model_is_refused(layer: int) -> None:
    model = tiny_llava()

    @dataclass(frozen=True)
    class Nested(foveate.Method):
        def score(self, view: foveate.View) -> Tensor:
            model(input_ids=torch.tensor([[3, 4, 5]]))
            return torch.arange(len(view)).float()

    with foveate.compress(model, Nested(keep=4, layer=layer)), torch.no_grad(), pytest.raises(UnsupportedError, match="inside its prefill"):
        model(**batch([prompt(3, "image", 5)]))


@pytest.mark.parametrize("method", [FastV(keep=4), Random(keep=4)], ids=repr)
def test_a_row_of_padding_alone_is_refused(method: foveate.Method) -> None:
    inputs = batch([prompt(3, "image", 5), []])
    with foveate.compress(tiny_llava(), method) as handle, torch.no_grad(), pytest.raises(InputError, match=r"row 1 .* padding alone"):
        handle.model(**inputs)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_positions_that_are_given_while_decoding_are_used(padding: str) -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 9), prompt(2, "image", 3, seed=1)], padding=padding)
    step = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[60], [41]])}
    step["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    with torch.no_grad():
        expected = model(**step, past_key_values=model(**inputs).past_key_values).logits
        with foveate.compress(model, FastV(keep=1.0)):
            got = model(**step, past_key_values=model(**inputs).past_key_values).logits
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_replicas_of_data_parallel_are_refused() -> None:
    model = tiny_llava()
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        replica = model.model._replicate_for_data_parallel()
        with pytest.raises(UnsupportedError, match="DataParallel"):
            replica(**batch([prompt(3, "image", 5)]))


def gradients(model: Any, method: foveate.Method, reentrant: bool | None) -> list[Tensor]:
    model.train()
    if reentrant is not None:
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
    inputs = batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    with foveate.compress(model, method):
        logits = model(**inputs, use_cache=False).logits
        logits.float().log_softmax(-1)[..., 7].sum().backward()
    return [parameter.grad for parameter in model.model.language_model.layers.parameters()]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("method", [Fixed(targets=(SPARSE, keep_target([3]))), FastV(keep=4), FastV(keep=4, layer=0)], ids=repr)
def test_gradient_checkpointing_gives_the_same_gradients_or_is_refused(method: foveate.Method, reentrant: bool) -> None:
    expected = gradients(tiny_llava(), method, None)
    if "__call__" in vars(GradientCheckpointingLayer):  # hooks would run again in the backward pass
        with pytest.raises(UnsupportedError, match="gradient checkpointing"):
            gradients(tiny_llava(), method, reentrant)
        return
    for got, wanted in zip(gradients(tiny_llava(), method, reentrant), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)


def test_checkpointed_layers_run_without_gradients_everywhere() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    model.gradient_checkpointing_enable()
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        assert model(**inputs).logits.shape[1] == 12
