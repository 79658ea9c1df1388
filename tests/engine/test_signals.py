"""Attention rows against plain softmax over full maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from foveate.engine.signals import attention, attention_rows

BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 4, 5, 8, 6
ROWS = torch.tensor([[4, 0], [2, 3]])


def full_map(query: Tensor, key: Tensor, visible: Tensor, softcap: float | None = None) -> Tensor:
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    logits = query @ key.transpose(2, 3) * WIDTH**-0.5
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.masked_fill(~visible, float("-inf")).softmax(-1).mean(1)


def pick(maps: Tensor) -> Tensor:
    return torch.stack([maps[row, ROWS[row]] for row in range(BATCH)])


@pytest.fixture(params=[1, 2, 4])
def tensors(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(request.param)
    query = torch.randn(BATCH, HEADS, QUERIES, WIDTH, generator=generator, dtype=torch.float64)
    return query, torch.randn(BATCH, request.param, KEYS, WIDTH, generator=generator, dtype=torch.float64)


CAUSAL = (torch.arange(KEYS)[None] <= torch.arange(QUERIES)[:, None] + KEYS - QUERIES)[None, None]


def test_without_a_mask_rows_are_causal(tensors: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(attention_rows(*tensors, ROWS), pick(full_map(*tensors, CAUSAL)))


def test_two_dimensional_masks_pad_and_stay_causal(tensors: tuple[Tensor, Tensor]) -> None:
    padding = torch.ones(BATCH, KEYS, dtype=torch.long)
    padding[0, :2] = 0
    expected = pick(full_map(*tensors, CAUSAL & padding.bool()[:, None, None]))
    torch.testing.assert_close(attention_rows(*tensors, ROWS, padding), expected)


@pytest.mark.parametrize("heads", [1, HEADS])
@pytest.mark.parametrize("longer", [0, 3])
def test_four_dimensional_masks_boolean_and_additive(tensors: tuple[Tensor, Tensor], heads: int, longer: int) -> None:
    visible = torch.rand(BATCH, heads, QUERIES, KEYS + longer, generator=torch.Generator().manual_seed(0)) > 0.4
    visible[..., 0] = True
    expected = pick(full_map(*tensors, visible[..., :KEYS].expand(-1, HEADS, -1, -1)))
    torch.testing.assert_close(attention_rows(*tensors, ROWS, visible), expected)
    additive = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, torch.finfo(torch.float64).min)
    torch.testing.assert_close(attention_rows(*tensors, ROWS, additive), expected)
    one_for_all = visible[:1]
    expected = pick(full_map(*tensors, one_for_all[..., :KEYS].expand(BATCH, HEADS, -1, -1)))
    torch.testing.assert_close(attention_rows(*tensors, ROWS, one_for_all), expected)


def test_sliding_windows_soft_caps_and_scales(tensors: tuple[Tensor, Tensor]) -> None:
    position = torch.arange(QUERIES)[:, None] + KEYS - QUERIES
    window = CAUSAL & (torch.arange(KEYS) > position - 3)
    torch.testing.assert_close(attention_rows(*tensors, ROWS, sliding_window=3), pick(full_map(*tensors, window)))
    capped = pick(full_map(*tensors, CAUSAL, softcap=0.5))
    torch.testing.assert_close(attention_rows(*tensors, ROWS, softcap=0.5), capped)
    query, key = tensors
    torch.testing.assert_close(attention_rows(query, key, ROWS, scaling=2 * WIDTH**-0.5), pick(full_map(2 * query, key, CAUSAL)))


def test_half_precision_is_computed_in_float32(tensors: tuple[Tensor, Tensor]) -> None:
    query, key = (tensor.bfloat16() for tensor in tensors)
    rows = attention_rows(query, key, ROWS)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.double(), pick(full_map(query.double(), key.double(), CAUSAL)), atol=1e-6, rtol=1e-4)


def test_heads_are_kept_apart_and_rows_weighted(tensors: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = tensors
    shares = torch.tensor([[0.25, 0.75], [0.0, 1.0]])
    wide = key.repeat_interleave(HEADS // key.shape[1], dim=1)
    maps = (query @ wide.transpose(2, 3) * WIDTH**-0.5).masked_fill(~CAUSAL, float("-inf")).softmax(-1)
    expected = torch.stack(
        [sum(share * maps[row, :, at] for share, at in zip(shares[row], ROWS[row], strict=True)) for row in range(BATCH)]
    )
    for block in (2**25, 1):
        monkeypatch.setattr(attention, "_BLOCK", block)
        layer = nn.Module()
        layer.config = PretrainedConfig()
        probe = attention.AttentionProbe(layer, ROWS, shares)
        probe.read(query, key, None)
        assert probe.by_head is not None
        torch.testing.assert_close(probe.by_head, expected, check_dtype=False)
        torch.testing.assert_close(probe.attention, pick(full_map(*tensors, CAUSAL)))
