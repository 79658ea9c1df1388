"""Ways of calling a compressed model that would be wrong in silence: right, or refused before work is done."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import SPARSE, Fixed, batch, generate, keep_target, pixels, prompt, tiny_llava
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.modeling_layers import GradientCheckpointingLayer

import foveate
from foveate import FastV, Random
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
