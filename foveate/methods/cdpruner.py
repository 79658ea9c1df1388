"""CDPruner: keep tokens that are relevant to the question and span the largest volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import OptionError
from foveate.methods._features import ROUNDED, FeatureMethod, centred, distinctiveness, row_of, scaled, unit_rows
from foveate.methods._question import question_units
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["CDPruner"]

WHOLE = 4096
"""Most tokens for which the whole kernel is in memory, 128 MiB; of more, each step computes one row of it."""


@register
@dataclass(frozen=True)
class CDPruner(FeatureMethod):
    """Keeps tokens that are relevant to the question and differ from each other, by a determinantal point process.

    Paper: "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs",
    https://arxiv.org/abs/2506.10967. With S the cosines of the vision features and r the relevance of each token to the question, the
    kernel is L = diag(r) S diag(r), and the kept tokens are those whose part of L has the largest determinant: greedily, each step
    takes the token that raises it most, by an incremental Cholesky factor.

    Relevance is a mean cosine, scaled to [0, 1] within the image. The paper takes it from CLIP's text tower where there is one. A
    vision-language model carries none, so here it is, as in OpenVINO GenAI, the mean cosine of the token to the question's tokens: at
    layer 0 of projected features and text embeddings, at a later layer of the hidden states that enter it.

    With `centred`, it is Cen-Prune around CDPruner, https://arxiv.org/abs/2608.30263, equation 8: S has the cosines of features less
    their mean over the image, and r is multiplied by each token's distinctiveness (see `DivPrune`).

    The papers leave open, and here holds: among equals the lower index comes first, where gains that differ by less than 2^-40 of the
    largest possible one are equal; once the rest adds no volume, the lowest indices fill the budget; frames of a video and crops of an
    image are one set of tokens. Of more than 4096 tokens the kernel is never in memory, only n times `keep` numbers.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
        relevance_weight: how much relevance counts, in [0, 1]. At 1 the kernel is that of the paper; at w below 1, r is replaced by
            exp(w r / (2 (1 - w))), as the authors' code suggests; at 0 diversity alone decides and no question is read.
        centred: centre the features first, and prefer distinct tokens (Cen-Prune).

    Raises:
        OptionError: `relevance_weight` is outside its range, or `centred` is neither true nor false.
    """

    relevance_weight: float = 1.0
    centred: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            isinstance(self.relevance_weight, bool)
            or not isinstance(self.relevance_weight, int | float)
            or not 0 <= self.relevance_weight <= 1
        ):
            raise OptionError(
                f"relevance_weight={self.relevance_weight!r} must be a number in [0, 1]; 0 decides by diversity alone, 1 is the paper's"
            )
        if not isinstance(self.centred, bool):
            raise OptionError(f"centred={self.centred!r} must be True or False")

    @property
    def needs(self) -> frozenset[str]:
        """The question unless its weight is 0, and projected features at a later layer."""
        return super().needs | ({"question_states"} if self.relevance_weight > 0 else set())

    def choose(self, features: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens (b, keep) in the order in which the greedy search takes them."""
        units = centred(features) if self.centred else unit_rows(features)
        quality = self._quality(views)
        if self.centred:
            quality = quality * distinctiveness(features)
        return _largest_volume(units * quality[..., None], keep)

    def _quality(self, views: Sequence[View]) -> Tensor:
        """What each token's length is in the kernel (b, n), float64, at most 1."""
        if self.relevance_weight == 0:
            return torch.ones(len(views), len(views[0]), dtype=torch.float64, device=views[0].states.device)
        states = torch.stack([view.states for view in views])
        require(states.isfinite().flatten(1).all(1), self._not_finite, views)
        # The mean cosine of each visual token to the question's tokens.
        question = torch.stack([question_units(view, type(self).__name__).mean(0) for view in views])
        relevance = scaled((unit_rows(states) @ question[..., None]).squeeze(-1))
        if self.relevance_weight == 1:
            return relevance
        # One factor for all tokens changes no choice, and keeps numbers small.
        return torch.exp(self.relevance_weight / (2 * (1 - self.relevance_weight)) * (relevance - 1))


def _largest_volume(rows: Tensor, keep: int) -> Tensor:
    """Of rows (b, n, d), the indices (b, keep) that a greedy search for the largest determinant of their products takes."""
    batch, tokens, _ = rows.shape
    # Of each row, the square of what the chosen ones do not span; and its coordinates along them, one step after another.
    left = rows.square().sum(-1)
    kernel = rows @ rows.mT if tokens <= WHOLE else None
    spanned = rows.new_zeros(batch, keep, tokens)
    taken = torch.zeros_like(left)
    chosen = []
    for step in range(keep):
        rounded = (left * ROUNDED).round_().clamp_(min=0)
        pick = (rounded + taken).argmax(1, keepdim=True)
        chosen.append(pick)
        taken.scatter_(1, pick, -torch.inf)
        known = spanned[:, :step]
        products = row_of(kernel, pick) if kernel is not None else (rows @ row_of(rows, pick)[..., None]).squeeze(-1)
        products = products - (known.gather(2, pick[:, None].expand(-1, step, -1)).mT @ known).squeeze(1)
        # A row within what is chosen gives no new direction, only rounding noise.
        new = rounded.gather(1, pick) > 0
        new_direction = torch.where(new, products * left.gather(1, pick).clamp(min=1 / ROUNDED).rsqrt(), 0.0)
        spanned[:, step] = new_direction
        left = left - new_direction.square()
    return torch.cat(chosen, 1)
