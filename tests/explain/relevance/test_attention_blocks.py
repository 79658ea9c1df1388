"""Attention backwards by blocks, against autograd over whole maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.explain.relevance.blocks import AttentionInputs, attention_backward, attention_output, attention_relevance

BATCH, HEADS, KEY_HEADS, LENGTH, WIDTH, VALUE = 2, 4, 2, 9, 6, 5
CAUSAL = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
PADDING = torch.tensor([[1] * LENGTH, [0] * 3 + [1] * (LENGTH - 3)])
VISIBLE = (CAUSAL & PADDING.bool()[:, None, :])[:, None]
WINDOW = VISIBLE & torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(-3)
AHEAD = VISIBLE.clone()
AHEAD[:, :, 4:7, 4:7] = True
"""An image whose tokens see each other."""

MASKS: dict[str, tuple[Tensor | None, Tensor, dict[str, Any]]] = {
    "causal": (None, CAUSAL, {}),
    "padding": (PADDING, VISIBLE, {}),
    "boolean": (VISIBLE, VISIBLE, {}),
    "boolean, wider": (torch.cat([VISIBLE, VISIBLE[..., :2]], -1), VISIBLE, {}),
    "additive": (torch.zeros(VISIBLE.shape).masked_fill(~VISIBLE, torch.finfo(torch.float32).min), VISIBLE, {}),
    "looking ahead": (AHEAD, AHEAD, {}),
    "looking ahead, additive": (torch.zeros(AHEAD.shape).masked_fill(~AHEAD, float("-inf")), AHEAD, {}),
    "bidirectional": (None, torch.ones_like(CAUSAL), {"causal": False}),
    "window": (PADDING, WINDOW, {"sliding_window": 4}),
    "scaled and capped": (VISIBLE, VISIBLE, {"scaling": 0.7, "softcap": 1.3}),
}


def attention(query: Tensor, key: Tensor, value: Tensor, visible: Tensor, scaling: float, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Maps (b, heads, n, n) and output (b, n, heads, e)."""
    groups = HEADS // KEY_HEADS
    logits = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * scaling
    if softcap is not None:
        logits = (logits / softcap).tanh() * softcap
    maps = logits.masked_fill(~visible, float("-inf")).softmax(-1)
    maps = torch.where(visible.any(-1, keepdim=True), maps, 0.0)
    return maps, (maps @ value.repeat_interleave(groups, 1)).transpose(1, 2)


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize(("mask", "visible", "options"), MASKS.values(), ids=MASKS.keys())
def test_relevance_and_gradients_are_those_of_whole_maps(mask: Tensor | None, visible: Tensor, options: dict[str, Any], block: int) -> None:
    torch.manual_seed(0)
    shapes = ((HEADS, WIDTH), (KEY_HEADS, WIDTH), (KEY_HEADS, VALUE))
    tensors = [torch.randn(BATCH, heads, LENGTH, width, dtype=torch.float64).requires_grad_() for heads, width in shapes]
    maps, output = attention(*tensors, visible, options.get("scaling", WIDTH**-0.5), options.get("softcap"))
    real = PADDING.bool() if mask is not None else torch.ones(BATCH, LENGTH, dtype=torch.bool)
    relevance = torch.rand(2, BATCH, LENGTH, dtype=torch.float64) * real
    outputs = [torch.randn(output.shape, dtype=torch.float64) * real[:, :, None, None] for _ in range(2)]
    attended = AttentionInputs(*tensors, mask, {"causal": True, **options})

    found, gradients = attention_backward(attended, relevance, outputs, block=block)
    for target, gradient in enumerate(outputs):
        at_maps, *at_inputs = torch.autograd.grad(output, [maps, *tensors], gradient, retain_graph=True)
        change = (maps * at_maps).clamp(min=0).mean(1).nan_to_num(0.0)
        expected = relevance[target] + torch.einsum("br,brk->bk", relevance[target], change)
        torch.testing.assert_close(found[target], expected)
        for own, truth in zip(vars(gradients[target]).values(), at_inputs, strict=True):
            torch.testing.assert_close(own, truth.nan_to_num(0.0))

    alone = attention_relevance(attended, relevance, block=block)
    torch.testing.assert_close(alone, relevance + torch.einsum("tbr,brk->tbk", relevance, maps.detach().mean(1).nan_to_num(0.0)))
    rows = torch.tensor([[8, 5], [7, 4]])
    truth = torch.stack([output.detach()[row, places] for row, places in enumerate(rows)])
    torch.testing.assert_close(attention_output(attended, rows), truth)


def test_relevance_alone_asks_for_no_gradients() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, 2, 5, 4) for _ in range(3)]
    attended = AttentionInputs(*tensors, None, {"causal": True})
    output, relevance = torch.randn(1, 5, 2, 4), torch.rand(1, 1, 5)
    both = [attention_backward(attended, relevance, [output], inputs=wanted) for wanted in (True, False)]
    assert both[1][1] == []
    assert torch.equal(both[0][0], both[1][0])
