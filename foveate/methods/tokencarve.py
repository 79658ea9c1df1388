"""TokenCarve: rank by attention and information, drop the lowest, merge similar tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import OptionError
from foveate.method import ranking
from foveate.methods._attention import check_attention
from foveate.methods.information import information_contributions
from foveate.methods.information.contribution import not_finite
from foveate.methods.mass import MassMethod, accumulated
from foveate.methods.registry import register
from foveate.plan import DROPPED, Plan
from foveate.view import View

__all__ = ["TokenCarve"]

BLOCK = 1024
"""Tokens whose similarities to all others are in memory at once."""


@register
@dataclass(frozen=True)
class TokenCarve(MassMethod):
    """Drops tokens that rank low in attention and information together, then merges the most similar of the rest.

    Paper: "TokenCarve: Information-Preserving Visual Token Compression", https://arxiv.org/abs/2503.10501. The defaults
    are those of the paper and its code. Stage one keeps the floor(stage_one * keep) best tokens by the weighted sum of
    their two ranks. Stage two merges the surplus: each token of the worse half is merged into its most similar token of
    the better half (cosine), the most similar first, until `keep` remain. A merged token is the plain mean. Among equals,
    the lower index comes first.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; both signals are those of the layer before it.
        clamp: as in `Method`.
        attention_weight: weight of the attention rank, in [0, 1]; the information rank has the rest. At 1 information is
            not computed, at 0 attention is not.
        stage_one: tokens after stage one as a multiple of `keep`, in [1, 2]; at 1 nothing is merged.
        source: where information is measured: "hidden", the hidden states that enter the layer (as in the paper's code),
            or "attention_output", the output of the layer before's self-attention (as in the paper's text). Similarity
            is always that of the hidden states, because they are what a merge averages.
        information: "exact"; "fast", which needs no float64 eigendecomposition; or "auto": fast on an accelerator and for very many
            tokens, else exact. `information_method` says which it takes, `information_contribution` how they differ.
        mass: as in `MassMethod`: share of attention and information, weighed as the ranks are, that the best tokens hold, where the
            best are those of the fused ranking. As many tokens remain, at most `keep`; `None` keeps exactly `keep`.
        at_least: as in `MassMethod`: the fewest tokens that `mass` keeps.

    Raises:
        OptionError: an option is outside its range.
    """

    attention_weight: float = 0.5
    stage_one: float = 1.5
    source: Literal["hidden", "attention_output"] = "hidden"
    information: Literal["auto", "exact", "fast"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range("attention_weight", self.attention_weight, 0, 1, "0 ranks by information alone, 1 by attention alone")
        _check_range("stage_one", self.stage_one, 1, 2, "1 only drops; above 2 the better half cannot take in the rest")
        _check_choice("source", self.source, ("hidden", "attention_output"))
        _check_choice("information", self.information, ("auto", "exact", "fast"))

    @property
    def needs(self) -> frozenset[str]:
        """Attention unless its weight is 0; the attention output if it is the source and information has any weight."""
        attention = {"last_attention"} if self.attention_weight > 0 else set()
        output = {"attention_output"} if self.source == "attention_output" and self.attention_weight < 1 else set()
        return frozenset(attention | output)

    def plan(self, view: View) -> Plan:
        """Decide for one image."""
        return self.plans([view])[0]

    @torch.no_grad()
    def plans(self, views: Sequence[View]) -> list[Plan]:
        """Decide for several images; their information is computed together."""
        plans: dict[int, Plan] = {}
        groups: dict[tuple[int, torch.Size, torch.dtype, torch.device], list[int]] = {}
        most = [self.budget(len(view), view.grid[0]) for view in views]
        informed = self._information({i: view for i, view in enumerate(views) if self.mass is not None or most[i] < len(view)})
        budgets = self._numbers(views, lambda: self._curves(views, [informed[i] for i in range(len(views))]))
        for i, (view, budget) in enumerate(zip(views, budgets, strict=True)):
            if budget == len(view):
                plans[i] = Plan.deferred(torch.arange(len(view), device=view.states.device), budget)
            else:
                groups.setdefault((budget, view.states.shape, view.states.dtype, view.states.device), []).append(i)
        for (budget, _, _, _), members in groups.items():
            target, order = self._targets([views[i] for i in members], budget, [informed[i] for i in members])
            orders: Sequence[Tensor | None] = order.unbind() if order.shape[1] else [None] * len(members)
            plans.update((i, Plan.deferred(own, budget, first)) for i, own, first in zip(members, target.unbind(), orders, strict=True))
        return [plans[i] for i in range(len(views))]

    def _targets(self, views: list[View], keep: int, information: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Plan targets (b, n) of images of equal shape, and their merged tokens (b, m), the most alike first."""
        order = ranking(self._score(views, information))
        survivors = min(math.floor(_fraction(self.stage_one) * keep), order.shape[1])
        better, worse = (x.sort().values for x in order[:, :survivors].tensor_split([survivors // 2], dim=1))
        target = torch.full_like(order, DROPPED).scatter(1, better, better).scatter(1, worse, worse)
        merged = survivors - keep
        if merged == 0:
            return target, order[:, :0]
        likeness, place = _most_similar([view.states for view in views], worse, better)
        # Both sets ascend by index, and argmax and a stable sort take the first of equals: the lower index.
        nearest = better.gather(1, place)
        most_alike = ranking(likeness)[:, :merged]
        sources = worse.gather(1, most_alike)
        return target.scatter(1, sources, nearest.gather(1, most_alike)), sources

    def curves(self, views: Sequence[View]) -> list[Tensor]:
        """How much attention and information the best 1 to n tokens of each view hold together, as `accumulated` counts it."""
        informed = self._information(dict(enumerate(views)))
        return self._curves(views, [informed[i] for i in range(len(views))])

    def _curves(self, views: Sequence[View], scores: Sequence[Tensor]) -> list[Tensor]:
        """Of the fused ranking, given the information (n,) of each view."""
        found: list[Tensor] = []
        weight = float(self.attention_weight)
        for view, information in zip(views, scores, strict=True):
            order = ranking(self._score([view], [information]))[0]
            parts = [(weight, view.last_attention), (1 - weight, information)]
            shares = [part * _shares(values) for part, values in parts if part > 0 and values is not None]
            found.append(accumulated(torch.stack(shares).sum(0)[order]))
        return found

    def _information(self, views: dict[int, View]) -> dict[int, Tensor]:
        """Information (n,) of each view, by the same keys; none if it has no weight."""
        if not views or self.attention_weight == 1:
            return dict.fromkeys(views, torch.empty(0))
        states = [view.states if self.source == "hidden" else view.signal(self.source) for view in views.values()]
        scores, finite = information_contributions(states, self.information)
        require(finite, not_finite, list(views.values()))
        return dict(zip(views, scores, strict=True))

    def _score(self, views: list[View], information: list[Tensor]) -> Tensor:
        """Fused rank points (b, n), higher is better; integers, so that ties are ties."""
        weight = _fraction(self.attention_weight)
        points: list[Tensor] = []
        if weight > 0:
            attention = check_attention(torch.stack([view.signal("last_attention") for view in views]), views)
            points.append(weight.numerator * _points(attention))
        if weight < 1:
            points.append((weight.denominator - weight.numerator) * _points(torch.stack(information)))
        return torch.stack(points).sum(0)


def _points(values: Tensor) -> Tensor:
    """Rank points (b, n) of values (b, n): n for the best, 1 for the worst. Among equals, the lower index is better."""
    order = ranking(values)
    return torch.empty_like(order).scatter(1, order, torch.arange(order.shape[1], 0, -1, device=order.device).expand_as(order))


def _shares(values: Tensor) -> Tensor:
    """Non-negative values (n,) as shares of their sum, float64."""
    exact = values.double()
    return exact / exact.sum().clamp_(min=torch.finfo(torch.float64).tiny)


def _most_similar(states: Sequence[Tensor], rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of each of the `rows` (b, r): its largest cosine similarity to one of the `others` (b, o), and that one's place among them (b, r)."""
    if states[0].device.type == "cpu" and len(states) > 1:
        # A CPU gains nothing from a batch and loses its caches; an accelerator saves launches.
        alone = [_most_similar([own], r[None], o[None]) for own, r, o in zip(states, rows, others, strict=True)]
        return torch.cat([likeness for likeness, _ in alone]), torch.cat([place for _, place in alone])
    batch = torch.stack(list(states))
    units = _units(batch, others)
    likeness, place = [], []
    for block in rows.split(BLOCK, dim=1):
        cosines = _cosines(_units(batch, block), units)
        likeness.append(cosines.amax(-1))
        place.append(cosines.argmax(-1))
    return torch.cat(likeness, 1), torch.cat(place, 1)


def _units(states: Tensor, index: Tensor) -> Tensor:
    """The rows (b, m) of states (b, n, d), of length 1, float64."""
    rows = states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
    return torch.nn.functional.normalize(rows.double(), dim=-1)


def _cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Cosine similarities (b, r, o) of rows of length 1, rounded below their noise so that equal rows tie."""
    return (rows @ others.mT).mul_(2**40).round_()


def _fraction(value: float) -> Fraction:
    """The decimal that the number was written as: 0.7 is 7/10, although the nearest binary number is not."""
    return Fraction(value).limit_denominator(1_000_000)


def _check_range(name: str, value: float, low: int, high: int, hint: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise OptionError(f"{name}={value!r} must be a number in [{low}, {high}]; {hint}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name}={value!r} is not known; choose {' or '.join(map(repr, choices))}")
