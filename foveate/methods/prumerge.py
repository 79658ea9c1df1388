"""PruMerge: keep the outliers of attention and evenly spaced tokens, and merge all others into them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.method import ranking
from foveate.methods._attention import check_attention
from foveate.methods._features import FeatureMethod, evenly, merged_into, unit_rows, where
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["PruMerge"]


@register
@dataclass(frozen=True)
class PruMerge(FeatureMethod):
    """Keeps the outliers of the vision tower's attention and evenly spaced tokens, and merges all others into them; needs no question.

    After "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", https://arxiv.org/abs/2403.15388, in its form
    "+". An outlier is a token whose attention lies more than 1.5 interquartile ranges above the third quartile of the image. Evenly
    spaced tokens among the others join them. Each token that is not kept is merged into the kept one that it resembles most, by cosine.

    In the paper the number of tokens depends on the image. Here the budget is met exactly: outliers come first, those with the most
    attention if there are more than fit, and evenly spaced tokens fill the rest. Other than in the paper, tokens are compared by their
    features after projection, not by the tower's attention keys, which no signal gives; and each token is merged into one other, by a
    plain mean, where the paper gives every kept token the mean of its nearest neighbours weighted by attention. Attention is that of
    `TowerAttention`; quartiles interpolate linearly. Among equals the lower index comes first; frames of a video and crops of an image
    are one set of tokens.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The attention that each token receives in the vision tower, and projected features at a later layer."""
        return super().needs | {"tower_attention"}

    def targets(self, features: Tensor, views: Sequence[View], keep: int) -> tuple[Tensor, int]:
        """Plan targets (b, n), and how many tokens are merged: all that are not kept."""
        attention = torch.stack([view.signal("tower_attention") for view in views])
        kept = _outliers_and_even(check_attention(attention, views, "tower_attention").double(), keep)
        merged = features.shape[1] - keep
        return merged_into(unit_rows(features), where(kept, keep), where(~kept, merged)), merged


def _outliers_and_even(attention: Tensor, keep: int) -> Tensor:
    """Marks `keep` tokens of each row of attention (b, n): outliers, and evenly spaced ones among the others."""
    lower, upper = (torch.quantile(attention, share, dim=1, keepdim=True) for share in (0.25, 0.75))
    outliers = (attention > upper + 1.5 * (upper - lower)).sum(1, keepdim=True).clamp(max=keep)
    first = ranking(attention).argsort(dim=1) < outliers
    return first | evenly(~first, keep - outliers)
