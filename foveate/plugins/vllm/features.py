"""Vision features of recent images, so that a new question about one does not run the vision tower again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from foveate.families.kit.layout import Layout

__all__ = ["FeatureCache", "Features"]


@dataclass(frozen=True)
class Features:
    """What the vision encoder made of one image or video.

    Attributes:
        rows: (N, d), one for each placeholder of the whole item, newlines included, as they enter the language model.
        layout: which of them are visual tokens, and the grids that these form.
        signals: what was read in the vision tower, (n, ...) each, in the order of the visual tokens.
    """

    rows: Tensor
    layout: Layout
    signals: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (self.rows, *self.signals.values()))


class FeatureCache:
    """The features of the images that were used last, up to a number of bytes.

    Args:
        limit: most bytes; features that are larger than that are never kept.

    Attributes:
        hits: how often features were found.
        misses: how often they were not.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self.hits, self.misses = 0, 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._size

    def get(self, key: bytes) -> Features | None:
        """The features of an image, which become the most recent; `None` if they are not there."""
        found = self._kept.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._kept.move_to_end(key)
        return found

    def put(self, key: bytes, features: Features) -> None:
        """Keep features, and drop the oldest until all fit."""
        if features.size > self._limit:
            return
        if key in self._kept:
            self._size -= self._kept.pop(key).size
        self._kept[key] = features
        self._size += features.size
        while self._size > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._size -= oldest.size

    def clear(self) -> None:
        """Drop all features."""
        self._kept.clear()
        self._size = 0
