"""ToMe: merge the most similar tokens pair by pair, round after round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.method import ranking
from foveate.methods._features import FeatureMethod, most_alike, unit_rows, where
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["ToMe"]


@register
@dataclass(frozen=True)
class ToMe(FeatureMethod):
    """Merges the most similar tokens, round after round, until the budget is met; needs no question and no attention.

    After "Token Merging: Your ViT But Faster", https://arxiv.org/abs/2210.09461, bipartite soft matching. Each round splits the tokens
    alternately into two sets. Each token of the first finds the one of the second that it resembles most, by cosine, and the most
    similar pairs are merged: a token of the second set may take in several. A merged token is the mean of all tokens in it, so larger
    ones count for more, and takes part in the next round as one token.

    In the paper a fixed number of tokens is merged in every block of the vision tower, by the cosine of attention keys. Here all is
    merged after the tower, by the features after projection, in rounds that merge as many as they can: half of the tokens. The
    paper's attention in proportion to size has no place there. A merged token has the place of the token of the second set. Among
    equals the lower index comes first; frames of a video and crops of an image are one set of tokens.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; 0 is the language model's input.
        clamp: as in `Method`.
    """

    def targets(self, features: Tensor, views: Sequence[View], keep: int) -> tuple[Tensor, int]:
        """Plan targets (b, n), and how many tokens are merged: all that are not kept."""
        batch, tokens, _ = features.shape
        # The mean of a group points where its sum does, and only directions are compared.
        sums = features.double()
        names = torch.arange(tokens, device=features.device).expand(batch, -1)
        group = names
        while names.shape[1] > keep:
            sums, stays, into = _round(sums, min(names.shape[1] // 2, names.shape[1] - keep))
            group = into.gather(1, group)
            names = names.gather(1, stays)
        return names.gather(1, group), tokens - keep


def _round(sums: Tensor, merged: int) -> tuple[Tensor, Tensor, Tensor]:
    """One round of matching.

    Args:
        sums: (b, c, d), the sum of each group of tokens.
        merged: how many groups go into others, at most half of them.

    Returns:
        the sums that are left (b, c - merged, d), which groups these are (b, c - merged), and the place of each group among them (b, c).
    """
    batch, count, width = sums.shape
    units = unit_rows(sums)
    alike, whose = most_alike(units[:, ::2], units[:, 1::2])
    best = ranking(alike)[:, :merged]
    goes, to = 2 * best, 2 * whose.gather(1, best) + 1
    wide = (-1, -1, width)
    total = sums.scatter_add(1, to[..., None].expand(wide), sums.gather(1, goes[..., None].expand(wide)))
    left = torch.ones(batch, count, dtype=torch.bool, device=sums.device).scatter_(1, goes, False)
    stays = where(left, count - merged)
    place = left.cumsum(1) - 1
    return total.gather(1, stays[..., None].expand(wide)), stays, place.scatter(1, goes, place.gather(1, to))
