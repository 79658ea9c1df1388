"""Positions of served Qwen-VL models: final for text from the start, and carried by the rows of visual tokens."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed")

from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Stock

from foveate.errors import UnsupportedError
from foveate.plugins.vllm.positions import (
    CarriedOffsets,
    ItemSpan,
    PositionedModel,
    grid_offsets,
    prompt_positions,
    split_offsets,
    with_offsets,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_offsets_travel_without_loss(dtype: torch.dtype) -> None:
    offsets = torch.tensor([[0, 1, 255, 256, 257], [65535, 65536, 65537, 2**24 - 1, 3], [1810, 768, 12345, 99999, 0]])
    rows = torch.randn(5, 7).to(dtype)
    features, found = split_offsets(with_offsets(rows, offsets))
    assert torch.equal(features, rows)
    assert torch.equal(found, offsets)


def feature(kind: str, start: int, grid: tuple[int, int, int], seconds: float) -> Any:
    t, h, w = grid
    data = {f"{kind}_grid_thw": SimpleNamespace(data=torch.tensor([t, 2 * h, 2 * w]))}
    if kind == "video":
        data["second_per_grid_ts"] = SimpleNamespace(data=torch.tensor(seconds))
    return SimpleNamespace(modality=kind, data=data, mm_position=SimpleNamespace(offset=start, length=t * h * w))


@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.5])
def test_with_all_tokens_kept_positions_are_those_of_the_stock_model(seconds: float) -> None:
    items = [("image", 3, (1, 5, 2)), ("video", 13, (6, 2, 3)), ("image", 55, (1, 2, 7))]
    length = 75
    vision = SimpleNamespace(spatial_merge_size=2, tokens_per_second=2)
    stock = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    stock.iter_mm_grid_thw = lambda features: Stock.iter_mm_grid_thw(stock, features)
    features = [feature(kind, start, grid, seconds) for kind, start, grid in items]
    expected, expected_delta = Stock.get_mrope_input_positions(stock, [0] * length, features)
    offsets = [grid_offsets(grid, 1.0 if kind == "image" else 2 * seconds) for kind, _, grid in items]
    runs = [ItemSpan(start, each.shape[1], int(each.max()) + 1) for (_, start, _), each in zip(items, offsets, strict=True)]
    found, delta = prompt_positions(length, runs)
    for run, each in zip(runs, offsets, strict=True):
        found[:, run.start : run.start + run.length] += each
    assert torch.equal(found, expected)
    assert delta == expected_delta


def test_text_is_where_it_would_be_behind_the_whole_image() -> None:
    whole, whole_delta = prompt_positions(30, [ItemSpan(2, 20, 9)])
    short, short_delta = prompt_positions(15, [ItemSpan(2, 5, 9)])
    assert torch.equal(short[:, 7:], whole[:, 22:])
    assert short_delta + 15 == whole_delta + 30
    assert short[:, 2:7].eq(2).all()


def test_offsets_are_those_of_one_pass_and_addresses_stay() -> None:
    carried = CarriedOffsets(8)
    visual = torch.tensor([False, True, True, False, True])
    carried.place([torch.tensor([[0, 0], [1, 2], [3, 4]]), torch.tensor([[5], [6], [7]])], visual)
    found = carried.added(torch.full((3, 7), 10))
    assert found.tolist() == [[10, 10, 10, 10, 15, 10, 10], [10, 11, 12, 10, 16, 10, 10], [10, 13, 14, 10, 17, 10, 10]]
    address = found.data_ptr()
    carried.place([], torch.zeros(3, dtype=torch.bool))
    again = carried.added(torch.full((3, 3), 4))
    assert again.eq(4).all()
    assert again.data_ptr() == address


def config(**changed: Any) -> Any:
    """Of a server that is fine, but for what is given."""
    return SimpleNamespace(
        parallel_config=SimpleNamespace(
            use_ubatching=changed.get("ubatching", False), prefill_context_parallel_size=changed.get("context", 1)
        ),
        speculative_config=changed.get("speculative"),
        lora_config=None,
        compilation_config=SimpleNamespace(cudagraph_mm_encoder=changed.get("graphs", False)),
        model_config=SimpleNamespace(
            uses_mrope=changed.get("mrope", True),
            multimodal_config=SimpleNamespace(is_multimodal_pruning_enabled=lambda: changed.get("pruning", False)),
        ),
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ubatching": True}, "--enable-dbo"),
        ({"context": 2}, "context parallelism"),
        ({"speculative": SimpleNamespace(method="eagle3")}, "--speculative-config"),
        ({"graphs": True}, "cudagraph_mm_encoder"),
        ({"pruning": True}, "--video-pruning-rate"),
        ({"mrope": False}, "rotary position"),
    ],
)
def test_servers_that_call_the_model_otherwise_are_refused(changed: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        PositionedModel(vllm_config=config(**changed))
