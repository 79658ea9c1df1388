"""What greedy methods that compare vision features share: the features, their cosines, and plans for several images at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError
from foveate.method import Method
from foveate.plan import DROPPED, Plan
from foveate.view import View

__all__ = ["ROUNDED", "FeatureMethod", "cosines"]

ROUNDED = 2.0**40
"""Cosines come in units of 1 / ROUNDED, as whole numbers, so that equal tokens tie and sums of up to 8192 of them are exact."""
TOGETHER = 2**26
"""Most pairs of tokens that images decided for together may have; in float64 they take 512 MiB."""


@dataclass(frozen=True)
class FeatureMethod(Method):
    """Chooses tokens one after another by how similar their vision features are; a method says how in `choose`.

    The features are those after projection, as they enter the language model: the view's `states` at layer 0, and the signal
    `projected_states` at a later layer. All frames of a video, and all crops of an image, are one set of tokens.
    """

    layer: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """The projected vision features, unless they are what enters the method's layer."""
        return frozenset({"projected_states"} if self.layer > 0 else set())

    @abstractmethod
    def choose(self, units: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens to keep, (b, keep), in the order of choice; it never waits for the device.

        Args:
            units: (b, n, d), float64, the features of b images scaled to length 1; features of length 0 stay 0.
            views: the b images.
            keep: fewer than n.
        """

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
                targets = self._targets([views[i] for i in together], budget)
                plans.update((i, Plan.deferred(target, budget)) for i, target in zip(together, targets.unbind(), strict=True))
        return [plans[i] for i in range(len(views))]

    def _targets(self, views: Sequence[View], keep: int) -> Tensor:
        """Plan targets (b, n) of images of one shape."""
        features = torch.stack([self._features(view) for view in views])
        lengths = torch.linalg.vector_norm(features, dim=-1, keepdim=True, dtype=torch.float64)
        require((lengths < torch.inf).flatten(1).all(1), self._not_finite, views)
        chosen = self.choose(features / lengths.clamp_(min=torch.finfo(torch.float64).tiny), views, keep)
        return torch.full(features.shape[:2], DROPPED, device=features.device).scatter_(1, chosen, chosen)

    def _features(self, view: View) -> Tensor:
        return view.states if self.layer == 0 else view.signal("projected_states")

    def _not_finite(self) -> InputError:
        return InputError(
            f"the vision features of an image contain NaN or infinity, so {type(self).__name__} cannot compare its tokens; "
            "check the model's dtype (float16 overflows at values that bfloat16 can represent)"
        )


def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Cosine similarities (b, r, o) of rows of length 1, in whole numbers of 1 / ROUNDED, below which differences are rounding noise."""
    return (rows @ others.mT).mul_(ROUNDED).round_()
