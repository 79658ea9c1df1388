"""Models whose parts live in different places: two devices, main memory, the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from around import assert_pruning_equals_masking, outside, two_rows
from devices import FIRST, SECOND, Devices, Everything, put, spread, where
from tiny import tiny_llava
from torch import Tensor

import foveate
from foveate import Method


def dispatched(first: str, second: str, **options: Any) -> Any:
    """The tiny model with its last two decoder layers in the second place."""
    accelerate = pytest.importorskip("accelerate")
    places = {"model.vision_tower": first, "model.multi_modal_projector": first, "lm_head": first}
    places |= {f"model.language_model.{name}": first for name in ("embed_tokens", "norm", "rotary_emb", "layers.0", "layers.1")}
    places |= {f"model.language_model.layers.{index}": second for index in (2, 3)}
    return accelerate.dispatch_model(tiny_llava(), places, **options)


def prefill(model: Any, method: Method) -> tuple[Tensor, list[Any]]:
    with foveate.compress(model, method) as handle, torch.no_grad():
        logits = model(**two_rows()).logits
        return logits.cpu(), [image.plan for image in handle.report.images]


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_layers_on_the_disk_change_nothing(layer: int, tmp_path: Path) -> None:
    model, plain = dispatched("cpu", "disk", offload_dir=str(tmp_path)), tiny_llava()
    model(**two_rows())  # transformers installs some hooks of its own in a first call
    assert model.model.language_model.layers[3].mlp.up_proj.weight.device.type == "meta"
    before = outside(model)
    logits, plans = prefill(model, Everything(keep=4, layer=layer))
    expected, same = prefill(plain, Everything(keep=4, layer=layer))
    assert plans == same
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert outside(model) == before
    assert model.model.language_model.layers[3].mlp.up_proj.weight.device.type == "meta"


def test_a_model_partly_on_the_disk_prunes_as_it_masks(tmp_path: Path) -> None:
    assert_pruning_equals_masking(dispatched("cpu", "disk", offload_dir=str(tmp_path)), tiny_llava())


def test_a_handle_comes_before_the_dispatch_as_well(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = tiny_llava()
    expected, plans = prefill(tiny_llava(), Everything(keep=4))
    with foveate.compress(model, Everything(keep=4)) as handle, torch.no_grad():
        accelerate.cpu_offload(model, execution_device="cpu")
        torch.testing.assert_close(model(**two_rows()).logits, expected, atol=1e-5, rtol=1e-5)
        assert [image.plan for image in handle.report.images] == plans


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_layers_on_two_imitated_devices_change_nothing(layer: int) -> None:
    methods = [Everything(keep=6, layer=layer), Everything(keep=3, layer=3)][: 1 if layer == 3 else 2]
    plain, model = tiny_llava(), spread(tiny_llava(), range(2, 4))
    step = torch.tensor([[5], [6]])
    with foveate.compress(plain, methods) as handle, torch.no_grad():
        one = plain(**two_rows())
        two = plain(input_ids=step, past_key_values=one.past_key_values)
        plans = [image.plan for image in handle.report.images]
    with foveate.compress(model, methods) as handle, torch.no_grad(), Devices():
        first = model(**put(two_rows(), FIRST))
        assert [image.plan for image in handle.report.images] == plans
        second = model(input_ids=put(step.clone(), FIRST), past_key_values=first.past_key_values)
    assert [where(cached.keys) for cached in first.past_key_values.layers] == [FIRST, FIRST, SECOND, SECOND]
    assert torch.equal(first.logits, one.logits)
    assert torch.equal(second.logits, two.logits)


@pytest.mark.gpu
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_layers_on_two_devices_change_nothing(layer: int) -> None:
    # With the CPU as main device its layers run there and are not offloaded: two devices that really compute.
    model = dispatched("cpu", "cuda:0", main_device="cpu")
    logits, plans = prefill(model, Everything(keep=4, layer=layer))
    expected, same = prefill(tiny_llava(), Everything(keep=4, layer=layer))
    assert plans == same
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    assert_pruning_equals_masking(model, tiny_llava())
