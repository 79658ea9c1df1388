"""VidCom2: give frames that stand out more of a video's budget, and keep the tokens that stand out in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.method import ranking
from foveate.methods._features import ROUNDED, FeatureMethod, unit_rows
from foveate.methods._frames import frame_of
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["VidCom2"]

WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1, 2)
"""Of the Gaussians that measure likeness."""
TEMPERATURE = 0.01
"""Of the softmax over frames."""


@register
@dataclass(frozen=True)
class VidCom2(FeatureMethod):
    """Keeps the tokens that stand out in a video, more of them in frames that stand out; needs no question and no attention.

    Paper: "Video Compression Commander: Plug-and-Play Inference Acceleration for Video Large Language Models",
    https://arxiv.org/abs/2505.14454. A token's likeness to a centre is a sum of Gaussians of its distance from it, of several widths;
    features have length 1, a centre is a mean of features. With v the likeness to the centre of the video and f that to the centre of the
    frame, the tokens of a frame with the lowest v + f are kept. A frame stands out by the negated mean of its v; with p their
    softmax over the T frames, a frame has 1 + p - 1 / T times the mean share of the budget.

    As in the authors' code, features are those after projection, of which the half of the channels with the lowest variance
    counts. The paper leaves the rounding of shares open. Here they are apportioned so that the budget is met exactly (Webster's method),
    no frame has more tokens than it has, and each has at least one if there are enough. Among equals the lower index comes first. An
    image is a video of one frame, and each crop of an image counts as a frame.

    Args:
        keep: visual tokens that remain per frame, times frames (int), or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
    """

    def choose(self, features: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens to keep, (b, keep)."""
        return torch.stack([_chosen(own, *frame_of(view), keep) for own, view in zip(features, views, strict=True)])


def _chosen(features: Tensor, frame: Tensor, frames: int, keep: int) -> Tensor:
    """The tokens to keep (keep,) of features (n, d) whose frame (n,) is known."""
    half = max(1, features.shape[1] // 2)
    steady = features.double().var(0, correction=0).sort(stable=True).indices[:half]
    units = unit_rows(features[None, :, steady])[0]
    size = torch.zeros(frames, dtype=torch.float64, device=units.device).index_add_(0, frame, units.new_ones(len(units)))
    centres = _means(units, frame, size)
    to_video = _likeness(units, units.mean(0, keepdim=True))
    stands_out = -_means(to_video[:, None], frame, size).squeeze(1)
    # A frame without tokens, after an earlier method, has no part in the softmax.
    share = (stands_out.masked_fill(size == 0, -torch.inf) / TEMPERATURE).softmax(0)
    share = size * (1 + share - 1 / (size > 0).sum())
    return _apportioned(to_video + _likeness(units, centres[frame]), frame, (share * ROUNDED).round() / ROUNDED, size, keep)


def _apportioned(likeness: Tensor, frame: Tensor, share: Tensor, size: Tensor, keep: int) -> Tensor:
    """The `keep` tokens that frames get by their shares (t,), in each frame those of the least likeness (n,)."""
    by_likeness = (likeness * ROUNDED).round().sort(stable=True).indices
    order = by_likeness[frame[by_likeness].sort(stable=True).indices]
    start = (size.cumsum(0) - size).long()
    rank = torch.arange(len(order), device=order.device) - start[frame[order]]
    # Webster: the k-th seat of a frame is worth share / (k - 1/2).
    worth = share[frame[order]] / (rank + 0.5)
    worth = torch.where((rank == 0) & (keep >= (size > 0).sum()), torch.inf, worth)
    return order[ranking(worth)[:keep]]


def _means(values: Tensor, frame: Tensor, size: Tensor) -> Tensor:
    """The mean (t, d) of values (n, d) over each frame."""
    return values.new_zeros(len(size), values.shape[1]).index_add_(0, frame, values) / size.clamp(min=1)[:, None]


def _likeness(units: Tensor, centres: Tensor) -> Tensor:
    """A sum of Gaussians (n,) of the distance of each row (n, d) from its centre (n or 1, d)."""
    distance = (units - centres).square().sum(1)
    return sum((torch.exp(-distance / (2 * width)) for width in WIDTHS), torch.zeros_like(distance))
