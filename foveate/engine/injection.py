"""Features that a decoder adds to its visual tokens after its first layers, and that follow them when tokens leave."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.devices import upload
from foveate.engine.slots import Route, averaged

__all__ = ["Injection"]


class Injection:
    """Adds features to the tokens that they belong to, in whichever slots those are.

    Args:
        mask: (b, s) bool, the tokens that features belong to.
        features: per decoder layer from layer 0 on (mask.sum(), d), added to that layer's output, row by row.
    """

    def __init__(self, mask: Tensor, features: Sequence[Tensor]) -> None:
        self._features = list(features)
        # The feature of each slot (b, n); -1 where there is none.
        self._source = torch.where(mask, mask.flatten().cumsum(0).view(mask.shape) - 1, -1)

    def reaches(self, index: int) -> bool:
        """Whether the output of decoder layer `index`, or of a later one, gets features."""
        return index < len(self._features)

    def add(self, index: int, states: Tensor) -> Tensor:
        """The output (b, n, d) of decoder layer `index` with its features."""
        if index >= len(self._features):
            return states
        features = self._features[index].to(states.device, states.dtype)
        source = upload(self._source, states.device)
        return torch.where((source >= 0)[..., None], states + features[source.clamp(min=0)], states)

    def follow(self, route: Route) -> None:
        """The sequence gets shorter."""
        source = self._source.gather(1, upload(route.source, self._source.device))
        self._source = source.masked_fill(upload(~route.slots.real, source.device), -1) if route.slots.padded else source

    def merge(self, into: Tensor, others: Tensor) -> None:
        """Some tokens are about to be merged into others: so are the features still to come.

        Args:
            into: (m,) the slots of the tokens that they are merged into, counted over all rows.
            others: (m,) the slots of those that are merged.
        """
        source = self._source.flatten()
        target, merged = (source.index_select(0, upload(slots, source.device)) for slots in (into, others))
        for index, features in enumerate(self._features):
            goes_to, comes_from = (upload(where, features.device) for where in (target, merged))
            self._features[index] = averaged(features, goes_to, features.index_select(0, comes_from))
