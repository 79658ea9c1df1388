"""DivPrune: keep the tokens whose features lie farthest apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.methods._features import FeatureMethod, cosines
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["DivPrune"]

WHOLE = 4096
"""Most tokens for which all cosines are in memory at once, 128 MiB; of more, each step computes one row of them."""
BLOCK = 256
"""Tokens whose cosines to all others are in memory at once while the first token is found."""


@register
@dataclass(frozen=True)
class DivPrune(FeatureMethod):
    """Keeps the tokens whose vision features lie farthest apart, so that none repeats another; needs no question and no attention.

    Paper: "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", https://arxiv.org/abs/2503.02175,
    algorithm 1. The distance of two tokens is 1 minus the cosine of their features. The first token is the one whose nearest
    other token is farthest away; each further one is the token whose nearest chosen token is farthest away. This is the greedy
    solution of the max-min diversity problem.

    The paper leaves open, and here holds: among equal distances the lower index comes first, where distances that differ by less
    than 2^-40 are equal; a token without length has distance 1 from all others; frames of a video and crops of an image are one set
    of tokens; at a later layer the features are still those of the tower after projection.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
    """

    def choose(self, units: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens (b, keep) in the order in which the greedy search takes them; memory is in proportion to n for many tokens."""
        tokens = units.shape[1]
        alike = cosines(units, units) if tokens <= WHOLE else None
        # Of each token the cosine to its nearest other one, then to its nearest chosen one. The least is the farthest.
        nearest = _to_nearest(units, alike)
        chosen = []
        for step in range(keep):
            pick = nearest.argmin(1, keepdim=True)
            chosen.append(pick)
            row = _row(alike, pick) if alike is not None else cosines(_row(units, pick)[:, None], units)[:, 0]
            nearest = row if step == 0 else torch.maximum(nearest, row)
            nearest.scatter_(1, pick, torch.inf)
        return torch.cat(chosen, 1)


def _to_nearest(units: Tensor, alike: Tensor | None) -> Tensor:
    """The cosine (b, n) of each token to the most similar other one."""
    found = []
    for start in range(0, units.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        block = cosines(units[:, part], units) if alike is None else alike[:, part].clone()
        block.diagonal(start, 1, 2).fill_(-torch.inf)
        found.append(block.amax(-1))
    return torch.cat(found, 1)


def _row(values: Tensor, pick: Tensor) -> Tensor:
    """Of values (b, n, m) the row (b, m) that `pick` (b, 1) names."""
    return values.gather(1, pick[..., None].expand(-1, -1, values.shape[2]))[:, 0]
