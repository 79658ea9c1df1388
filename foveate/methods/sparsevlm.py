"""SparseVLM: rate tokens by the words that look at the image, drop in stages, and merge the best of what is dropped."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError, OptionError
from foveate.method import ranking
from foveate.methods._attention import check_attention
from foveate.methods._staged import StagedMethod
from foveate.methods.registry import register
from foveate.plan import DROPPED, Plan
from foveate.view import View

__all__ = ["SparseVLM"]

ROUNDED = 2.0**40
"""Squared distances are whole multiples of the largest squared length divided by this, so that equal tokens are equally far."""


@register
@dataclass(frozen=True)
class SparseVLM(StagedMethod):
    """Takes tokens out in several stages by the attention of question words that match the image, and merges the best of those that leave.

    Paper: "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", https://arxiv.org/abs/2410.04417.

    1. Raters are the question tokens that the visual tokens match above average: the softmax over the question tokens of the products of
       vision features and question embeddings, mean over the visual tokens.
    2. A token's score is the mean attention that the raters pay it in the layer before, mean over heads. The best stay.
    3. Of the others the best 30 % are recycled: density peaks among their hidden states become centres, a tenth as many, and each other one
       is merged into its nearest centre. A recycled token is the plain mean of its cluster, at the place of its centre.

    Kept and recycled tokens together meet the budget. The paper derives each stage's count from the rank of the attention, so that it
    follows the image; the authors' code has fixed counts, and so has this method: `keep` after the last stage, and the same share of the
    tokens at each. Stages are those of the code: after layers 2, 6 and 15 of 32. At equal `keep` it computes more than a method that
    acts once.

    The paper leaves open, and here holds: if no question token matches above average, all are raters; raters are found at each stage, from
    the tokens that are left; among equals the lower index comes first, also where the code breaks ties between densities by random
    noise. If the budget is smaller than the number of clusters, there are as many clusters as the budget, and no token is kept as it is.

    Args:
        keep: visual tokens that remain per image after the last stage (int), or the share of the image's tokens (float).
        layer: no stage acts before an earlier layer than this one.
        clamp: as in `Method`.
        at: layers of the stages: ints are decoder layers, floats in (0, 1) shares of the model's layers.
        recycle: merge the best of the tokens that leave; without it they are dropped.

    Raises:
        OptionError: `at` names no stage, or something else than layers and shares; `recycle` is neither true nor false.
    """

    at: tuple[int | float, ...] = (3 / 32, 7 / 32, 1 / 2)
    recycle: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.recycle, bool):
            raise OptionError(f"recycle={self.recycle!r} must be True or False")

    @property
    def needs(self) -> frozenset[str]:
        """The question's attention, and what decides which of its tokens are raters."""
        return frozenset({"text_attention", "question_embeddings", "projected_states"})

    @torch.no_grad()
    def score(self, view: View) -> Tensor:
        """Mean attention of the raters to each token, shape (n,)."""
        attention = check_attention(view.signal("text_attention"), [view], "text_attention").double()
        weights = raters(view.signal("projected_states"), view.signal("question_embeddings")).to(attention.dtype)
        return (weights @ attention) / weights.sum()

    @torch.no_grad()
    def plan(self, view: View) -> Plan:
        """Decide for one image."""
        tokens, budget = len(view), self._allowed(view)
        places = torch.arange(tokens, device=view.states.device)
        if budget == tokens:
            return Plan.deferred(places, budget)
        order = ranking(self.score(view))
        stay, recycled, centres = counts(tokens, budget) if self.recycle else (budget, 0, 0)
        target = torch.full_like(places, DROPPED).scatter(0, order[:stay], order[:stay])
        if not recycled:
            return Plan.deferred(target, budget)
        left = order[stay : stay + recycled].sort().values
        chosen, nearest = density_peaks(self._distances(view, left), centres)
        target = target.scatter(0, left, left[nearest])
        # Those that are merged, in ascending order; a sort of flags finds them without a wait.
        merged = left[torch.sort(chosen.byte(), stable=True).indices[: recycled - centres]]
        return Plan.deferred(target, budget, merged if recycled > centres else None)

    def _distances(self, view: View, index: Tensor) -> Tensor:
        """Squared distances (m, m) between the hidden states of some tokens, divided by their width, float64."""
        states = view.states.index_select(0, index).double()
        squares = states.square().sum(1)
        largest = squares.max().clamp(min=torch.finfo(torch.float64).tiny)
        require(largest < torch.inf, _not_a_number, [view])
        apart = squares[:, None] + squares - 2 * states @ states.mT
        return (apart / largest * ROUNDED).round().clamp(min=0) / ROUNDED * (largest / states.shape[1])


def raters(features: Tensor, question: Tensor) -> Tensor:
    """Which question tokens (q,) rate, as a bool: those that the visual tokens match above average, or all if none does.

    Args:
        features: (n, d), the visual tokens as they enter the language model.
        question: (q, d), the question tokens as they enter it.
    """
    match = (features.double() @ question.double().mT).softmax(1).mean(0)
    # The mean of q shares that add to 1; equal shares differ from it by rounding alone.
    above = match > (1 + 1e-9) / len(question)
    return above | ~above.any()


def counts(tokens: int, budget: int) -> tuple[int, int, int]:
    """Of so many tokens, fewer than which remain: how many stay as they are, how many of the others are recycled, and into how many."""
    found = (0, _recycled(tokens), budget)
    for stay in range(budget):
        recycled = _recycled(tokens - stay)
        centres = recycled // 10 + 1
        if stay + centres == budget:
            found = stay, recycled, centres
    return found


def _recycled(leaving: int) -> int:
    """The best 30 % of the tokens that leave, and one more, as in the authors' code."""
    return leaving * 3 // 10 + 1


def density_peaks(squared: Tensor, centres: int) -> tuple[Tensor, Tensor]:
    """Clusters by density peaks, from squared distances (m, m); `centres` is at most m.

    The density of a point is exp(-mean squared distance to its `centres` nearest points, itself included). Centres have the highest
    products of density and distance to the nearest denser point. Everything is compared as logarithms, which do not underflow.

    Returns:
        whether each point is a centre (m,), and the centre (m,) that is nearest to it; a centre's is itself.
    """
    points = torch.arange(len(squared), device=squared.device)
    spread = torch.sort(squared, dim=1).values[:, :centres].mean(1)
    # Of equal densities the first is denser.
    denser = (spread < spread[:, None]) | ((spread == spread[:, None]) & (points < points[:, None]))
    apart = torch.where(denser, squared, squared.max()).amin(1)
    order = ranking(apart.log() / 2 - spread)[:centres].sort().values
    chosen = torch.zeros_like(points, dtype=torch.bool).index_fill(0, order, True)
    nearest = order[squared[:, order].argmin(1)]
    return chosen, torch.where(chosen, points, nearest)


def _not_a_number() -> InputError:
    return InputError("the hidden states of an image contain NaN or infinity, so SparseVLM cannot compare them; check the model's dtype")
