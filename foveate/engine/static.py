"""Static key/value caches that hold fewer tokens than they stand for.

A static cache has one length for good, so that a decoding step can be compiled. A compressed prompt therefore runs on a dynamic cache, and
what stays moves into static layers of its own, shorter length. Decoding steps run on those: a stock `StaticCache` (the *inner* one), of
which compiled code needs to know nothing else. The cache that `generate` and the caller hold (the *outer* one) reports the logical length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache, StaticLayer

from foveate.engine.cache import CutState, base_state, cut_layer, physical_length, real_columns, real_keys
from foveate.errors import CacheError

__all__ = ["StaticCut", "cut_of", "fill", "freeze", "is_static", "room_in", "thaw"]

STEP = 32
"""Short lengths are multiples of it, so that prompts of similar lengths run the same compiled code."""


@dataclass
class StaticCut:
    """What a cut static cache stands for, and where its keys are.

    Attributes:
        inner: the stock cache of the short length.
        state: of the cut prefill.
        real: (b, length) bool, false where a physical key is padding; `None` where none is. Keys to come count as real.
        shift: (..., b) rotary position of a new token minus the physical index of its key.
        held: physical keys, as counted on the host.
        before: `shift` and `held` before the last step.
    """

    inner: StaticCache
    state: CutState
    real: Tensor | None
    shift: Tensor
    held: int
    before: tuple[Tensor, int] | None = None

    @property
    def length(self) -> int:
        """Physical keys for which there is room."""
        return int(self.inner.layers[0].max_cache_len)

    def positions(self) -> Tensor:
        """The rotary position (..., b, 1) of the next token."""
        return (self.shift + self.inner.layers[0].cumulative_length.to(self.shift.device))[..., None]

    def whole(self) -> Tensor:
        """Which physical keys are real, (b, length) bool."""
        if self.real is not None:
            return self.real
        return torch.ones(self.state.real_keys.shape[0], self.length, dtype=torch.bool, device=self.shift.device)

    def count(self, new: Tensor | None) -> None:
        """One more token per row is about to be decoded; `new` (b, 1) bool says in which rows it is real, `None` in all."""
        self.before = self.shift, self.held
        if new is not None and self.real is not None:
            self.real[:, self.held] = new[:, 0]
            self.shift = self.shift - (~new[:, 0]).long()
        self.held += 1

    def take_back(self) -> None:
        """The step that was counted last has failed, perhaps after some of the layers."""
        if self.before is not None:
            (self.shift, self.held), self.before = self.before, None
            for layer in self.inner.layers:
                layer.cumulative_length.fill_(self.held)

    def make_room(self, limit: int) -> None:
        """Move to longer layers if there is no room for one more key; they never need to hold more than `limit` keys.

        Raises:
            CacheError: `limit` keys are there already.
        """
        if self.held < self.length:
            return
        self.held = int(self.inner.layers[0].cumulative_length)  # a caller may have cropped the inner cache
        if self.held < self.length:
            return
        if self.held >= limit:
            raise CacheError(
                f"the static cache is full: it stands for {limit + self.state.removed} tokens; make one with a larger max_cache_len, or "
                "generate fewer tokens"
            )
        length = min(_rounded(2 * self.held), limit)
        layers = [_filled(layer.keys[:, :, : self.held], layer.values[:, :, : self.held], length) for layer in self.inner.layers]
        self.inner.layers = layers
        if self.real is not None:
            self.real = F.pad(self.real, (0, length - self.real.shape[1]), value=True)

    def take_rows(self, index: Tensor) -> None:
        """Follow the beams."""
        self.shift = self.shift[..., index.to(self.shift.device)]
        self.state = self.state.rows(index)
        if self.real is not None:
            self.real = self.real[index.to(self.real.device)]


class CutStaticLayer(StaticLayer):
    """What a static layer becomes once tokens have left it: it points to the layer that holds the rest, and reports the logical length."""

    foveate_cut: StaticCut
    foveate_index: int

    @property
    def inner(self) -> StaticLayer:
        """The layer that holds the keys."""
        layer: StaticLayer = self.foveate_cut.inner.layers[self.foveate_index]
        return layer

    @property
    def keys(self) -> Tensor:  # type: ignore[override]
        """Those that stayed, and room for new ones."""
        return self.inner.keys  # type: ignore[return-value]

    @property
    def values(self) -> Tensor:  # type: ignore[override]
        """Those that stayed, and room for new ones."""
        return self.inner.values  # type: ignore[return-value]

    def get_seq_length(self) -> Any:
        """The logical length, on the device as in any static layer."""
        return self.inner.cumulative_length + self.foveate_cut.state.removed

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Nothing runs on this layer.

        Raises:
            CacheError: always.
        """
        raise self._unprepared()

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Nothing runs on this layer.

        Raises:
            CacheError: always.
        """
        raise self._unprepared()

    def _unprepared(self) -> CacheError:
        return CacheError(
            "this static key/value cache was compressed, but no foveate handle prepared this step: the handle was removed, another model "
            "is decoding, or the model's own call was compiled with this cache; call foveate.compress(...) on this model, use generate, or "
            "start with an empty cache"
        )

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, as long as they came after the cut.

        Raises:
            CacheError: the crop reaches into the compressed prefill.
        """
        cut, remove = self.foveate_cut, abs(tokens_to_remove)
        if not remove:
            return
        held = int(self.inner.cumulative_length)
        if held - remove < cut.state.real_keys.shape[1]:
            length = held + cut.state.removed
            raise CacheError(
                f"cannot crop {remove} of {length} tokens: the first {cut.state.logical} were compressed together; "
                f"crop at most {length - cut.state.logical}, or prefill again"
            )
        self.inner.cumulative_length.sub_(remove)
        cut.held = held - remove

    def reset(self) -> None:
        """Empty the layer; it is an ordinary one again."""
        device = self.inner.cumulative_length.device
        del self.foveate_cut, self.foveate_index
        self.__class__ = StaticLayer  # type: ignore[assignment]
        empty = {"keys": None, "values": None, "cumulative_length": torch.zeros((), dtype=torch.long, device=device)}
        self.__dict__.update(empty, is_initialized=False)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        self.inner.reorder_cache(beam_idx)
        if self.foveate_index == 0:
            self.foveate_cut.take_rows(beam_idx)


def is_static(cache: Any) -> bool:
    """Whether it is a static cache of layers that see everything, on one device, cut or not."""
    return (
        isinstance(cache, StaticCache)
        and not getattr(cache, "offloading", False)
        and bool(cache.layers)
        and all(type(layer) in (StaticLayer, CutStaticLayer) for layer in cache.layers)
    )


def cut_of(cache: Any) -> StaticCut | None:
    """What a static cache that was cut stands for; `None` for any other cache."""
    layers = getattr(cache, "layers", None)
    return layers[0].foveate_cut if layers and type(layers[0]) is CutStaticLayer else None


def room_in(cache: Any) -> tuple[int, int]:
    """The tokens that a static cache stands for, and those for which it has been made. Waits for the device."""
    return int(cache.get_seq_length()), int(cache.layers[0].max_cache_len)


def thaw(cache: StaticCache) -> DynamicCache:
    """A dynamic cache of what a static one contains, on which a prompt can be compressed. The static one stays as it is."""
    cut, dynamic = cut_of(cache), DynamicCache()
    held = int((cache if cut is None else cut.inner).get_seq_length())
    if not held:
        return dynamic
    for layer in (cache if cut is None else cut.inner).layers:
        thawed = DynamicLayer()
        thawed.lazy_initialization(layer.keys, layer.values)
        thawed.keys, thawed.values = layer.keys[:, :, :held], layer.values[:, :, :held]
        if cut is not None:
            cut_layer(thawed, cut.state)
        dynamic.layers.append(thawed)
    return dynamic


def fill(cache: StaticCache, dynamic: DynamicCache) -> None:
    """Let a static cache that was never cut contain what a dynamic one does, of a prompt in which there was nothing to cut."""
    past = int(cache.get_seq_length())
    for static, layer in zip(cache.layers, dynamic.layers, strict=True):
        static.update(layer.keys[:, :, past:], layer.values[:, :, past:])


def freeze(cache: StaticCache, dynamic: DynamicCache, mask: Tensor | None, new: int | None, least: int) -> StaticCut:
    """Make a static cache stand for what a cut dynamic one contains.

    Args:
        cache: changed in place.
        dynamic: holds the prompt's keys, of one length in all layers.
        mask: the 2-D mask over all logical columns of the prompt, or `None`.
        new: tokens that are to be decoded, as far as is known; else there is room for as many as `cache` was made for.
        least: the length to use at least, if `cache` is as long.

    Returns:
        what `cache` stands for.
    """
    state = base_state(dynamic)
    assert state is not None
    held, logical, limit = physical_length(dynamic.layers[0]), dynamic.get_seq_length(), int(cache.layers[0].max_cache_len)
    room = limit - logical if new is None else min(new, limit - logical)
    length = min(max(_rounded(held + room), least), limit)
    inner = StaticCache.__new__(StaticCache)
    Cache.__init__(inner, layers=[_filled(layer.keys, layer.values, length) for layer in dynamic.layers])
    batch, device = state.real_keys.shape[0], state.real_keys.device
    since = real_columns(mask, state.logical, logical, batch, device)
    real = None
    if batch > 1 or state.padded or logical > state.logical:
        real = F.pad(real_keys(state, mask, logical, batch, device), (0, length - held), value=True)
    cut = StaticCut(inner, state, real, state.next_position.to(device) + since.sum(1) - held, held)
    for index, layer in enumerate(cache.layers):
        for name in ("keys", "values", "cumulative_length"):
            layer.__dict__.pop(name, None)
        layer.__class__ = CutStaticLayer  # the object stays the one that `generate` and the user hold
        layer.is_initialized, layer.foveate_cut, layer.foveate_index = True, cut, index
    return cut


def _rounded(length: int) -> int:
    return -(-length // STEP) * STEP


def _filled(keys: Tensor, values: Tensor, length: int) -> StaticLayer:
    """A stock static layer of `length` that holds these keys and values (b, h, n, d)."""
    layer, held = StaticLayer(max_cache_len=length), keys.shape[2]
    layer.cumulative_length = torch.full((), held, dtype=torch.long, device=keys.device)  # without a copy from the host
    layer.lazy_initialization(keys, values)
    layer.keys[:, :, :held] = keys
    layer.values[:, :, :held] = values
    return layer
