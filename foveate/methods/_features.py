"""What methods that compare vision features share: the features, their cosines, and plans for several images at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError
from foveate.method import Method
from foveate.plan import DROPPED, Plan
from foveate.view import View

__all__ = [
    "BLOCK", "ROUNDED", "FeatureMethod", "centred", "cosines", "distinctiveness", "evenly", "merged_into", "most_alike", "row_of", "scaled",
    "unit_rows", "where",
]  # fmt: skip

ROUNDED = 2.0**40
"""Cosines come in units of 1 / ROUNDED, as whole numbers, so that equal tokens tie and sums of up to 8192 of them are exact."""
TOGETHER = 2**26
"""Most pairs of tokens that images decided for together may have; in float64 they take 512 MiB."""
BLOCK = 512
"""Rows of cosines that are in memory at once where only the highest of each row is wanted."""


@dataclass(frozen=True)
class FeatureMethod(Method):
    """Chooses tokens by how similar their vision features are; a method says how in `choose`, or in `targets` if it merges.

    The features are those after projection, as they enter the language model: the view's `states` at layer 0, and the signal
    `projected_states` at a later layer. All frames of a video, and all crops of an image, are one set of tokens.
    """

    layer: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """The projected vision features, unless they are what enters the method's layer."""
        return frozenset({"projected_states"} if self.layer > 0 else set())

    def choose(self, features: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens to keep, (b, keep), in the order of choice; it never waits for the device.

        Args:
            features: (b, n, d), finite, the features of b images.
            views: the b images.
            keep: fewer than n.
        """
        raise NotImplementedError(f"{type(self).__name__} must override choose or targets")

    def targets(self, features: Tensor, views: Sequence[View], keep: int) -> tuple[Tensor, int]:
        """Plan targets (b, n), and how many tokens of each image they merge; arguments as of `choose`, which the default asks."""
        chosen = self.choose(features, views, keep)
        return torch.full(features.shape[:2], DROPPED, device=features.device).scatter_(1, chosen, chosen), 0

    def plan(self, view: View) -> Plan:
        """Decide for one image."""
        return self.plans([view])[0]

    @torch.no_grad()
    def plans(self, views: Sequence[View]) -> list[Plan]:
        """Decide for several images; on an accelerator those of one shape share launches."""
        plans: dict[int, Plan] = {}
        groups: dict[tuple[int, torch.Size, torch.dtype, torch.device], list[int]] = {}
        for i, view in enumerate(views):
            budget = self.budget(len(view), view.grid[0])
            if budget == len(view):
                plans[i] = Plan.deferred(torch.arange(len(view), device=view.states.device), budget)
            else:
                features = self._features(view)
                groups.setdefault((budget, features.shape, features.dtype, features.device), []).append(i)
        for (budget, shape, _, device), members in groups.items():
            # A CPU gains nothing from a batch and loses its caches.
            most = 1 if device.type == "cpu" else max(1, TOGETHER // shape[0] ** 2)
            for first in range(0, len(members), most):
                together = members[first : first + most]
                plans.update(zip(together, self._decided([views[i] for i in together], budget), strict=True))
        return [plans[i] for i in range(len(views))]

    def _decided(self, views: Sequence[View], keep: int) -> list[Plan]:
        """Plans of images of one shape."""
        features = torch.stack([self._features(view) for view in views])
        require(features.isfinite().flatten(1).all(1), self._not_finite, views)
        targets, merged = self.targets(features, views, keep)
        if not merged:
            return [Plan.deferred(target, keep) for target in targets.unbind()]
        moves = (targets != DROPPED) & (targets != torch.arange(targets.shape[1], device=targets.device))
        orders = where(moves, merged)
        return [Plan.deferred(target, keep, order) for target, order in zip(targets.unbind(), orders.unbind(), strict=True)]

    def _features(self, view: View) -> Tensor:
        return view.states if self.layer == 0 else view.signal("projected_states")

    def _not_finite(self) -> InputError:
        return InputError(
            f"the vision features of an image contain NaN or infinity, so {type(self).__name__} cannot compare its tokens; "
            "check the model's dtype (float16 overflows at values that bfloat16 can represent)"
        )


def unit_rows(features: Tensor) -> Tensor:
    """Features (..., d) scaled to length 1, in float64; features of length 0 stay 0."""
    exact = features.double()
    return exact / torch.linalg.vector_norm(exact, dim=-1, keepdim=True).clamp_(min=torch.finfo(torch.float64).tiny)


def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Cosine similarities (b, r, o) of rows of length 1, in whole numbers of 1 / ROUNDED, below which differences are rounding noise."""
    return (rows @ others.mT).mul_(ROUNDED).round_()


def most_alike(rows: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows of length 1 (b, r, d), the highest cosine to any of others (b, o, d), as `cosines` has it, and whose it is: both (b, r).

    Among equals the first. Memory is in proportion to r + o.
    """
    found, whose = [], []
    for part in rows.split(BLOCK, dim=1):
        alike = cosines(part, others)
        best = alike.argmax(-1, keepdim=True)
        found.append(alike.gather(-1, best).squeeze(-1))
        whose.append(best.squeeze(-1))
    return torch.cat(found, 1), torch.cat(whose, 1)


def merged_into(units: Tensor, kept: Tensor, others: Tensor) -> Tensor:
    """Plan targets (b, n) of tokens of length 1: `kept` (b, k) stay, and each of `others` (b, m) goes to the one of them it resembles most.

    Args:
        units: (b, n, d).
        kept: ascending indices, so that the lower index comes first among equals.
        others: indices; a token that neither names is dropped.
    """
    rows, sources = (units.gather(1, chosen[..., None].expand(-1, -1, units.shape[2])) for chosen in (others, kept))
    targets = torch.full(units.shape[:2], DROPPED, device=units.device).scatter_(1, kept, kept)
    return targets.scatter_(1, others, kept.gather(1, most_alike(rows, sources)[1]))


def where(mask: Tensor, count: int) -> Tensor:
    """The ascending indices (b, count) at which a mask (b, n) is true, `count` times in every row; it never waits for the device."""
    return mask.sort(dim=1, descending=True, stable=True).indices[:, :count]


def evenly(mask: Tensor, wanted: Tensor) -> Tensor:
    """Marks `wanted` (b, 1) of the places at which a mask (b, n) is true, at equal distances; at most as many as there are."""
    places = mask.sum(1, keepdim=True).clamp(min=1)
    place = mask.cumsum(1) - 1
    half = places // 2
    return mask & (((place + 1) * wanted + half) // places > (place * wanted + half) // places)


def row_of(values: Tensor, pick: Tensor) -> Tensor:
    """Of values (b, n, m) the row (b, m) that `pick` (b, 1) names."""
    return values.gather(1, pick[..., None].expand(-1, -1, values.shape[2]))[:, 0]


def centred(features: Tensor) -> Tensor:
    """Features (b, n, d) less their mean over the image, scaled to length 1, in float64 (Cen-Prune, equations 3 and 4)."""
    exact = features.double()
    residual = exact - exact.mean(1, keepdim=True)
    # What is left of features that are all equal is rounding noise, not a direction.
    noise = torch.linalg.vector_norm(exact, dim=-1, keepdim=True).amax(1, keepdim=True) / ROUNDED
    return unit_rows(torch.where(torch.linalg.vector_norm(residual, dim=-1, keepdim=True) > noise, residual, 0.0))


def distinctiveness(features: Tensor) -> Tensor:
    """How little each token resembles all others (b, n), float64, from 0 for the least distinct to 1 (Cen-Prune, equations 5 and 6).

    It is the negated mean cosine of its uncentred feature to those of the others, scaled to [0, 1] within the image; 1 if all are equal.
    """
    units = unit_rows(features)
    # The sum of the cosines to all others, without a matrix of them.
    alike = (units @ units.sum(1)[..., None]).squeeze(-1) - units.square().sum(-1)
    return scaled(-alike / max(1, features.shape[1] - 1))


def scaled(values: Tensor) -> Tensor:
    """Values (b, n) moved and stretched to [0, 1] row by row, in units of 1 / ROUNDED; all 1 in a row of equal values."""
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    spread = high - low
    stretched = ((values - low) / spread.clamp(min=torch.finfo(values.dtype).tiny)).mul_(ROUNDED).round_().div_(ROUNDED)
    return torch.where(spread * ROUNDED > 1, stretched, 1.0)
