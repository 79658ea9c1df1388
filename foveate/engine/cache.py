"""Key/value caches that hold fewer tokens than they stand for.

`generate` decides what is new by the cache's length, and positions and masks are sized by it too. So a cache layer that
lost tokens still reports its *logical* length. The state lives on the layer itself: it survives `copy.deepcopy`,
follows beams when they are reordered, and belongs to the generation, not to the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from foveate.devices import upload
from foveate.engine.threads import PerThread
from foveate.errors import CacheError, UnsupportedError

__all__ = [
    "CutState",
    "announce",
    "base_state",
    "bytes_per_token",
    "cache_bytes",
    "check_cache",
    "cut_layer",
    "forget_since",
    "layer_state",
    "physical_length",
    "real_columns",
    "real_keys",
    "trim_layer",
]


@dataclass
class _Announced:
    layers: frozenset[int] = frozenset()


_ANNOUNCED = PerThread(_Announced)


def announce(cache: Any) -> None:
    """Say that a handle prepares the masks of the forward pass which this thread runs with `cache`; `None` ends it.

    A cut cache outlives its handle and travels in copies and pickles. It can be decoded in an announced pass alone.
    """
    _ANNOUNCED.own.layers = frozenset() if cache is None else frozenset(map(id, cache.layers))


@dataclass(frozen=True)
class CutState:
    """What a cut cache layer remembers of the prefill. Layers on one device that hold the same tokens share one object.

    Attributes:
        real_keys: (b, p) bool, which of the first p physical keys are real; the others are padding.
        next_position: (..., b) rotary position of the first token after the cut prefill, with one entry per kind of position
            where a model has several.
        logical: length that those p keys stand for.
        segment: the first decoder layer whose cache holds these same tokens.
        padded: whether any of the p keys may be padding, as the host knows.
    """

    real_keys: Tensor
    next_position: Tensor
    logical: int
    segment: int
    padded: bool = True

    @property
    def removed(self) -> int:
        """How many keys are missing."""
        return self.logical - self.real_keys.shape[1]

    @cached_property
    def columns(self) -> Tensor:
        """(b, logical) bool: the physical keys after as many columns of padding as are missing, as a mask over the logical length."""
        return F.pad(self.real_keys, (self.removed, 0))

    def rows(self, index: Tensor) -> CutState:
        """The state of some rows of the batch; the same object for all layers that share this one and are given the same index."""
        if index.is_inference():  # nothing says whether it was written to since
            return self._rows(index)
        known = self.__dict__.get("_last")
        if known is None or known[0] is not index or known[1] != index._version:
            known = self.__dict__["_last"] = (index, index._version, self._rows(index))
        return known[2]  # type: ignore[no-any-return]

    def repeated(self, repeats: int) -> CutState:
        """The state of a batch in which every row is repeated, likewise one object."""
        known = self.__dict__.get("_repeated")
        if known is None or known[0] != repeats:
            rows = torch.arange(len(self.real_keys), device=self.real_keys.device)[:, None].expand(-1, repeats)
            known = self.__dict__["_repeated"] = (repeats, self._rows(rows.flatten()))
        return known[1]  # type: ignore[no-any-return]

    def _rows(self, index: Tensor) -> CutState:
        index = upload(index, self.real_keys.device)
        return replace(self, real_keys=self.real_keys[index], next_position=self.next_position[..., index])

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_last", "_repeated", "columns")}


class CutLayer(DynamicLayer):
    """What a cache layer becomes once tokens have left it."""

    foveate: CutState

    def get_seq_length(self) -> int:
        """The logical length."""
        length = super().get_seq_length()
        return length + self.foveate.removed if length else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The physical length, after an offset of the removed tokens.

        Raises:
            CacheError: no handle prepares the masks of this pass.
        """
        self._check_announced()
        return physical_length(self) + query_length, self.foveate.removed

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values.

        Raises:
            CacheError: no handle prepares the masks of this pass.
        """
        self._check_announced()
        return super().update(*args, **kwargs)  # type: ignore[no-any-return]

    def _check_announced(self) -> None:
        if id(self) not in _ANNOUNCED.own.layers:
            raise CacheError(
                "this key/value cache was compressed, but no foveate handle on the model prepares masks for it: the handle was removed, or "
                "another model is decoding; call foveate.compress(...) on this model before resuming, or start a new generation"
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens, as long as they came after the cut.

        Raises:
            CacheError: the crop reaches into the compressed prefill.
        """
        length = self.get_seq_length()
        # Positive numbers name the final length in older transformers.
        remove = -tokens_to_remove if tokens_to_remove <= 0 else max(length - tokens_to_remove, 0)
        if length - remove < self.foveate.logical:
            raise CacheError(
                f"cannot crop {remove} of {length} tokens: the first {self.foveate.logical} were compressed together; "
                f"crop at most {length - self.foveate.logical}, or prefill again"
            )
        super().crop(-remove)

    def reset(self) -> None:
        """Empty the layer; it is an ordinary one again."""
        super().reset()
        self.keys = self.values = None  # older transformers only zero them, and keys that left cannot be counted as zeros
        self.is_initialized = False
        self.__class__ = DynamicLayer  # type: ignore[assignment]
        del self.foveate

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        super().reorder_cache(beam_idx)
        self.foveate = self.foveate.rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch."""
        super().batch_select_indices(indices)
        self.foveate = self.foveate.rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        super().batch_repeat_interleave(repeats)
        self.foveate = self.foveate.repeated(repeats)


def check_cache(cache: Any) -> None:
    """Refuse caches from which tokens cannot be taken.

    Raises:
        UnsupportedError: naming the cache and the one to use.
    """
    if cache is None:
        return
    layers = getattr(cache, "layers", None)
    plain = layers is not None and all(type(layer) in (DynamicLayer, CutLayer) for layer in layers)
    if (
        not isinstance(cache, Cache)
        or not plain
        or getattr(cache, "offloading", False)
        or (not layers and not isinstance(cache, DynamicCache))
    ):
        kinds = ", ".join(sorted({type(layer).__name__ for layer in layers or ()}))
        raise UnsupportedError(
            f"cannot compress into a {type(cache).__name__}{f' of {kinds}' if kinds else ''} here; use the default DynamicCache, or a "
            "StaticCache that is given to the model itself (not to its backbone), neither sliding nor offloaded, or remove the handle"
        )


def cache_bytes(cache: Any) -> int:
    """Bytes of all keys and values that a transformers cache holds, padding included."""
    tensors = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def bytes_per_token(layer: Any) -> int:
    """Bytes of one key and value in all heads of a cache layer."""
    keys, values = layer.keys, layer.values
    return keys.shape[1] * keys.shape[3] * keys.element_size() + values.shape[1] * values.shape[3] * values.element_size()  # type: ignore[no-any-return]


def physical_length(layer: Any) -> int:
    """Keys that a cache layer holds."""
    if not layer.is_initialized:
        return 0
    shape = layer.keys.shape
    return shape[-2] if len(shape) > 1 else 0


def layer_state(cache: Any, index: int) -> CutState | None:
    """The state of one cache layer; `None` if it was never cut."""
    if cache is None or index >= len(cache.layers):
        return None
    return getattr(cache.layers[index], "foveate", None)


def base_state(cache: Any) -> CutState | None:
    """The state that any layer of the cache has; the last one is always cut if one is."""
    return layer_state(cache, len(cache.layers) - 1) if isinstance(cache, Cache) and cache.layers else None


def cut_layer(layer: Any, state: CutState) -> None:
    """Make a cache layer remember `state`."""
    layer.__class__ = CutLayer  # the object stays the one that `generate` and the user hold
    layer.foveate = state


def trim_layer(layer: Any, index: Tensor, tokens: int) -> None:
    """Keep only `index` (b, k) of the last `tokens` keys and values of a cache layer; what came before stays."""
    for name in ("keys", "values"):
        tensor = getattr(layer, name)
        past, new = tensor[:, :, :-tokens], tensor[:, :, -tokens:]
        rows = upload(index, tensor.device)
        if rows.shape[0] == 1:
            picked = new.index_select(2, rows[0])
        else:
            picked = new.gather(2, rows[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3]))
        setattr(layer, name, torch.cat([past, picked], dim=2) if past.shape[2] else picked)


def forget_since(layer: Any, held: int) -> None:
    """Make a cache layer that held `held` keys before a pass which failed hold those again, and no others."""
    if physical_length(layer) > held:
        for name in ("keys", "values"):
            tensor = getattr(layer, name)
            setattr(layer, name, tensor[:, :, :held] if held else tensor.new_empty(0))


def real_columns(mask: Tensor | None, start: int, end: int, batch: int, device: torch.device) -> Tensor:
    """Which logical columns start..end of an incoming 2-D mask are real, (b, end - start) bool; all where there is no mask."""
    if mask is None:
        return torch.ones(batch, end - start, dtype=torch.bool, device=device)
    missing = end - mask.shape[1]
    whole = F.pad(mask, (0, missing)) if missing > 0 else mask
    return upload(whole[:, start:end], device).bool()


def real_keys(state: CutState | None, mask: Tensor | None, past: int, batch: int, device: torch.device) -> Tensor:
    """Which physical keys of a layer that stands for `past` logical tokens are real, (b, physical) bool."""
    if state is None:
        return real_columns(mask, 0, past, batch, device)
    return torch.cat([upload(state.real_keys, device), real_columns(mask, state.logical, past, batch, device)], dim=1)
