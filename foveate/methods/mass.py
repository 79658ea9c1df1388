"""Budgets that follow the image: methods that keep as many tokens as hold a share of the image's importance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foveate.devices import fetch, require
from foveate.errors import BudgetError, MethodError, OptionError
from foveate.method import Method, brief, keep_best
from foveate.plan import Plan
from foveate.view import View

__all__ = ["MassMethod", "accumulated", "smallest"]

UNITS = 2**40
"""Shares come in units of 1 / UNITS, as whole numbers, so that their sums are exact on every device, whatever the order."""


@dataclass(frozen=True)
class MassMethod(Method):
    """A method that gives each token a non-negative importance, so that its budget can follow the image.

    With `mass` an image keeps the smallest number of tokens, the best ones first, that hold this share of the importance of all tokens
    in view, at least `at_least` and at most `keep`. A subclass overrides `score`; where the score is no importance, also `importance`.

    Args:
        keep: as in `Method`; with `mass` the most that remain.
        layer: as in `Method`.
        clamp: as in `Method`.
        mass: share of the importance in (0, 1] that the kept tokens hold; `None` keeps exactly `keep`. The numbers that images keep
            are known on the device alone, so a decision waits for it once, for all images together.
        at_least: the fewest tokens that `mass` keeps per image (int; for a video per frame, times frames), or the share of the tokens
            in view (float in (0, 1]; rounded half up). Where it exceeds `keep` on an image, `keep` remain.

    Raises:
        OptionError: `mass` is no share.
        BudgetError: `at_least` is no budget, exceeds a `keep` of the same unit, or is given without `mass`.
    """

    mass: float | None = field(default=None, kw_only=True)
    at_least: int | float = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        mass, least = self.mass, self.at_least
        if mass is not None and (isinstance(mass, bool) or not isinstance(mass, int | float) or not 0 < mass <= 1):
            raise OptionError(f"mass={mass!r} must be a share of the importance in (0, 1], such as mass=0.9, or None for a fixed number")
        if isinstance(least, bool) or not isinstance(least, int | float) or not (least >= 1 if isinstance(least, int) else 0 < least <= 1):
            raise BudgetError(f"at_least={least!r} must be an int from 1 (tokens per image) or a float in (0, 1] (share of the tokens)")
        if mass is None and (isinstance(least, float) or least > 1):
            raise BudgetError(f"at_least={least!r} bounds what mass keeps; pass mass too, such as mass=0.9, or leave at_least out")
        if type(least) is type(self.keep) and least > self.keep:
            raise BudgetError(f"at_least={least!r} is more than keep={self.keep!r}, the most that remain; lower it or raise keep")
        if mass is not None:
            object.__setattr__(self, "exact", False)

    def fewest(self, tokens: int, frames: int = 1) -> int:
        """The fewest of `tokens` visual tokens that `mass` keeps, from shapes alone; `budget` is the most. Raises what `budget` does."""
        return min(self.budget(tokens, frames), self._least(tokens, frames))

    def importance(self, scores: Tensor) -> Tensor:
        """What scores (b, n) say of the tokens' importance, (b, n), not negative, in the same order; the scores themselves by default."""
        return scores

    def curves(self, views: Sequence[View]) -> list[Tensor]:
        """How much importance the best 1 to n tokens of each view hold together: (n,), int64, as `accumulated` counts it."""
        return self._curves(views, self._all_scores(views))

    def _all_scores(self, views: Sequence[View]) -> list[Tensor]:
        return [self._checked(self.score(view), view) for view in views]

    def _ranked(self, views: Sequence[View]) -> list[Plan]:
        return self._best(views, self._all_scores(views))

    def _best(self, views: Sequence[View], scores: Sequence[Tensor]) -> list[Plan]:
        """Plans that keep the tokens with the highest scores."""
        return keep_best(scores, self._numbers(views, lambda: self._curves(views, scores)))

    def _curves(self, views: Sequence[View], scores: Sequence[Tensor]) -> list[Tensor]:
        groups: dict[tuple[int, torch.device], list[int]] = {}
        for number, score in enumerate(scores):
            groups.setdefault((len(score), score.device), []).append(number)
        found: dict[int, Tensor] = {}
        for members in groups.values():
            importance = self.importance(torch.stack([scores[number] for number in members]))
            require((importance >= 0).all(1), self._negative, [views[number] for number in members])
            curves = accumulated(importance.sort(dim=-1, descending=True).values)
            found.update(zip(members, curves.unbind(), strict=True))
        return [found[number] for number in range(len(scores))]

    def _numbers(self, views: Sequence[View], curves: Callable[[], Sequence[Tensor]]) -> list[int]:
        """How many tokens of each view remain; with `mass` it waits for the device once, unless the bounds leave no choice."""
        most = [self._allowed(view) for view in views]
        share = self._share()
        least = [min(top, self._least(self._counted(view), view.grid[0])) for view, top in zip(views, most, strict=True)]
        if share is None or least == most:
            return most
        wanted = smallest(curves(), share)
        return [min(max(number, low), top) for number, low, top in zip(wanted, least, most, strict=True)]

    def _share(self) -> float | None:
        """The share that one decision keeps."""
        return self.mass

    def _counted(self, view: View) -> int:
        """The number of tokens that `at_least` is a share of."""
        return len(view)

    def _least(self, tokens: int, frames: int) -> int:
        least = self.at_least
        return max(1, math.floor(least * tokens + 0.5)) if isinstance(least, float) else least * frames

    def _negative(self) -> MethodError:
        return MethodError(f"{brief(self)}: mass needs an importance that is not negative; override importance(scores), or pass no mass")


def accumulated(importance: Tensor) -> Tensor:
    """The share of the importance (..., n) that the first 1 to n tokens hold together, in units of 1 / UNITS; all 0 where it is 0."""
    exact = importance.double()
    total = exact.sum(-1, keepdim=True).clamp_(min=torch.finfo(torch.float64).tiny)
    return (exact / total).mul_(UNITS).round_().long().cumsum(-1)


def smallest(curves: Sequence[Tensor], mass: float) -> list[int]:
    """The smallest number of tokens that hold the share `mass`, for each curve of `accumulated`; one wait for all.

    Where no token has any importance, it is more than there are tokens, so that bounds decide.
    """
    groups: dict[tuple[int, torch.device], list[int]] = {}
    for number, curve in enumerate(curves):
        groups.setdefault((len(curve), curve.device), []).append(number)
    counts = []
    for members in groups.values():
        stacked = torch.stack([curves[number] for number in members])
        # Less one unit per token: half a unit of rounding in each share must not cost a token where the mass is met on paper.
        need = ((stacked[:, -1:].double() * mass).round_().long() - stacked.shape[1]).clamp_(min=1)
        counts.append((stacked < need).sum(1) + 1)
    fetched = zip(groups.values(), fetch(counts), strict=True)
    found = {number: count for members, values in fetched for number, count in zip(members, values.tolist(), strict=True)}
    return [found[number] for number in range(len(curves))]
