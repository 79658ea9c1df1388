"""EVS: drop what does not change from one frame to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.method import ranking
from foveate.methods._features import ROUNDED, FeatureMethod, evenly, unit_rows
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["EVS"]


@register
@dataclass(frozen=True)
class EVS(FeatureMethod):
    """Keeps a video's first frame and the tokens that change most from one frame to the next; needs no question and no attention.

    Paper: "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference", https://arxiv.org/abs/2510.14624. A
    token's change is 1 minus the cosine of its feature to that of the token at the same place in the frame before. The first frame
    has nothing before it and is kept; of the others, the tokens with the highest change stay, over all frames, at their positions.

    The paper leaves open, and here holds: features are those after projection; if the budget is smaller than the first frame, evenly
    spaced tokens of it are kept; among equals, where changes that differ by less than 2^-40 are equal, the lower index comes first;
    after an earlier method of a schedule, a token is compared with the last one before it at its place, and one without such a token
    counts as part of the first frame. An image is a video of one frame, all crops together.

    Args:
        keep: visual tokens that remain per frame, times frames (int), or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
    """

    def choose(self, features: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens to keep, (b, keep)."""
        before = torch.stack([_before(view) for view in views])
        units = unit_rows(features)
        earlier = units.gather(1, before.clamp(min=0)[..., None].expand(-1, -1, units.shape[2]))
        change = ROUNDED - ((units * earlier).sum(-1) * ROUNDED).round()
        first = before < 0
        fits = first.sum(1, keepdim=True).clamp(max=keep)
        return ranking(torch.where(first, torch.where(evenly(first, fits), torch.inf, -torch.inf), change))[:, :keep]


def _before(view: View) -> Tensor:
    """The token (n,) at the same place in the last frame before that has one; -1 where there is none."""
    device, tokens = view.states.device, len(view)
    places = math.prod(view.grid[1:]) if len(view.parts) == 1 else math.prod(view.grid)
    index = torch.arange(tokens, device=device) if view.index is None else view.index.to(device)
    # Sorted by place, and within one by time, each token follows the one before it.
    order = (index % places).sort(stable=True).indices
    same = (index[order] % places)[1:] == (index[order] % places)[:-1]
    earlier = torch.where(same, order[:-1], -1)
    return torch.full((tokens,), -1, device=device).scatter_(0, order[1:], earlier)
