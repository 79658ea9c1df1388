"""How the recipe computes attention in a tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

PLAIN_ATTENTION = "foveate_demo_matmul"


def _matmul_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    """Attention as two plain products: several times faster than the fused kernel for short sequences in bfloat16 on a CPU."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(PLAIN_ATTENTION, _matmul_attention)


def fastest_attention(device: torch.device | str, dtype: torch.dtype) -> str:
    """The implementation to train the tower with: the fused one, except in half precision on a CPU, where it is slow."""
    return PLAIN_ATTENTION if torch.device(device).type == "cpu" and dtype == torch.bfloat16 else "sdpa"
