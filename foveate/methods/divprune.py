"""DivPrune: keep the tokens whose features lie farthest apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.errors import OptionError
from foveate.methods._features import ROUNDED, FeatureMethod, centred, cosines, distinctiveness, row_of, unit_rows
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

    With `centred`, it is Cen-Prune around DivPrune: "Centering before Pruning", https://arxiv.org/abs/2608.30263, equation 7.
    Distances are those of features less their mean over the image, and from the second token on each counts times the token's
    distinctiveness: its negated mean cosine to all others before centring, scaled to [0, 1] within the image.

    The papers leave open, and here holds: among equal distances the lower index comes first, where distances that differ by less
    than 2^-40 are equal; a token without length has distance 1 from all others; frames of a video and crops of an image are one set
    of tokens; at a later layer the features are still those of the tower after projection; centred, the first token is the one whose
    nearest other token is farthest away after centring.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
        centred: centre the features first, and prefer distinct tokens (Cen-Prune).

    Raises:
        OptionError: `centred` is neither true nor false.
    """

    centred: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.centred, bool):
            raise OptionError(f"centred={self.centred!r} must be True or False")

    def choose(self, features: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens (b, keep) in the order in which the greedy search takes them; memory is in proportion to n for many tokens."""
        units = centred(features) if self.centred else unit_rows(features)
        worth = distinctiveness(features) if self.centred else None
        alike = cosines(units, units) if units.shape[1] <= WHOLE else None
        # Of each token the cosine to its nearest other one, then to its nearest chosen one. The least is the farthest.
        nearest = _to_nearest(units, alike)
        chosen: list[Tensor] = []
        for step in range(keep):
            pick = _farthest(nearest, worth if chosen else None)
            chosen.append(pick)
            row = row_of(alike, pick) if alike is not None else cosines(row_of(units, pick)[:, None], units)[:, 0]
            nearest = row if step == 0 else torch.maximum(nearest, row)
            nearest.scatter_(1, pick, torch.inf)
        return torch.cat(chosen, 1)


def _farthest(nearest: Tensor, worth: Tensor | None) -> Tensor:
    """The token (b, 1) of the least cosine, or of the greatest distance times its worth; chosen tokens have an infinite cosine."""
    if worth is None:
        return nearest.argmin(1, keepdim=True)
    gain = (ROUNDED - nearest).mul_(worth).round_()
    return gain.masked_fill_(nearest.isinf(), -torch.inf).argmax(1, keepdim=True)


def _to_nearest(units: Tensor, alike: Tensor | None) -> Tensor:
    """The cosine (b, n) of each token to the most similar other one."""
    found = []
    for start in range(0, units.shape[1], BLOCK):
        part = slice(start, start + BLOCK)
        block = cosines(units[:, part], units) if alike is None else alike[:, part].clone()
        block.diagonal(start, 1, 2).fill_(-torch.inf)
        found.append(block.amax(-1))
    return torch.cat(found, 1)
