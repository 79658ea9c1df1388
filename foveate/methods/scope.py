"""Scope: keep tokens that matter to the vision tower and together resemble all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.errors import InputError, OptionError
from foveate.methods._attention import check_attention
from foveate.methods._features import FeatureMethod, cosines, unit_rows
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["Scope"]

MOST = 8192
"""Most tokens of an image: their cosines take 512 MiB, and sums of more would not be exact."""
STEEPEST = 10


@register
@dataclass(frozen=True)
class Scope(FeatureMethod):
    """Keeps tokens that the vision tower attends to and that together resemble all others; needs no question.

    Paper: "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs", https://arxiv.org/abs/2510.24214,
    algorithm 1. A set of tokens covers a token u by its highest cosine to u, or 0. Adding a token v gains
    sum over u of max(cos(u, v) - coverage of u, 0). Each step takes the token with the highest gain times the attention that the
    token receives in the vision tower to the power of `alpha`. Attention is that of `TowerAttention`.

    The paper leaves open, and here holds: the features are those after projection; among equals the lower index comes first, where
    cosines that differ by less than 2^-40 are equal; when no token gains anything, the lowest indices fill the budget; frames of a
    video and crops of an image are one set of tokens.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
        alpha: exponent of attention, in [0, 10]; the paper's best is 1. At 0 coverage alone decides, and attention is not computed.

    Raises:
        OptionError: `alpha` is outside its range.
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 <= self.alpha <= STEEPEST:
            raise OptionError(f"alpha={self.alpha!r} must be a number in [0, {STEEPEST}]; 0 decides by coverage alone, 1 is the paper's")

    @property
    def needs(self) -> frozenset[str]:
        """Tower attention unless its exponent is 0, and projected features at a later layer."""
        return super().needs | ({"tower_attention"} if self.alpha > 0 else set())

    def choose(self, features: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens (b, keep) in the order in which the greedy search takes them.

        Raises:
            InputError: an image has more tokens than can be compared all with all.
        """
        batch, tokens = features.shape[:2]
        if tokens > MOST:
            raise _too_many(tokens)
        # What each candidate (row) would add to the coverage of each token (column). Once v is taken, the coverage of u has grown by
        # what v had to add to it, so all others have that much less to add. All are whole numbers, and sums are exact.
        units = unit_rows(features)
        gains = cosines(units, units).clamp_(min=0)
        saliency, taken = self._saliency(views), units.new_zeros(batch, tokens)
        chosen = []
        for _ in range(keep):
            pick = torch.addcmul(taken, gains.sum(-1), saliency).argmax(1, keepdim=True)
            chosen.append(pick)
            taken.scatter_(1, pick, -1)
            gains.sub_(gains.gather(1, pick[..., None].expand(-1, -1, tokens))).clamp_(min=0)
        return torch.cat(chosen, 1)

    def _saliency(self, views: Sequence[View]) -> Tensor:
        """Tower attention to the power of alpha (b, n), float64."""
        if self.alpha == 0:
            return torch.ones(len(views), len(views[0]), dtype=torch.float64, device=views[0].states.device)
        attention = torch.stack([view.signal("tower_attention") for view in views])
        return check_attention(attention, views, "tower_attention").double() ** self.alpha


def _too_many(tokens: int) -> InputError:
    return InputError(
        f"Scope compares all visual tokens of an image with each other, and {tokens} are too many ({8 * tokens**2 / 2**20:.0f} MiB for "
        f"their cosines); the limit is {MOST}: pass smaller images or fewer frames, or use DivPrune, which needs no such matrix"
    )
