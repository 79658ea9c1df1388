"""Features that a decoder adds to its visual tokens after its first layers, and that follow them when tokens leave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.engine.slots import Route
from foveate.plan import Plan

__all__ = ["Injection"]


class Injection:
    """Adds features to the tokens that they belong to, in whichever slots those are.

    Args:
        mask: (b, s) bool, the tokens that features belong to.
        features: per decoder layer from layer 0 on (mask.sum(), d), added to that layer's output, row by row.
    """

    def __init__(self, mask: Tensor, features: Sequence[Tensor]) -> None:
        self._features = list(features)
        mask = mask.cpu()
        self._source = torch.full(mask.shape, -1)
        self._source[mask] = torch.arange(int(mask.sum()))

    def reaches(self, index: int) -> bool:
        """Whether the output of decoder layer `index`, or of a later one, gets features."""
        return index < len(self._features)

    def add(self, index: int, states: Tensor) -> Tensor:
        """The output (b, n, d) of decoder layer `index` with its features."""
        if index >= len(self._features):
            return states
        present = self._source >= 0
        features = self._features[index].to(states.device, states.dtype)
        states = states.clone()
        states[present.to(states.device)] += features[self._source[present].to(states.device)]
        return states

    def follow(self, route: Route) -> None:
        """The sequence gets shorter."""
        self._source = self._source.gather(1, route.source).masked_fill(~route.slots.real, -1)

    def merge(self, row: int, slots: Tensor, plan: Plan) -> None:
        """The tokens in `slots` (n,) of one row are about to be merged: so are the features still to come."""
        source = self._source[row, slots]
        for index, features in enumerate(self._features):
            own = source.to(features.device)
            self._features[index] = features.index_copy(0, own[plan.kept.to(features.device)], plan.merge(features[own]))
