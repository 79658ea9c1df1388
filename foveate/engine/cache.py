"""Key/value caches that hold fewer tokens than they stand for.

`generate` decides what is new by the cache's length, and positions and masks are sized by it too. So a cache layer that
lost tokens still reports its *logical* length. The state lives on the layer itself: it survives `copy.deepcopy`,
follows beams when they are reordered, and belongs to the generation, not to the model.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from foveate.engine.threads import PerThread
from foveate.errors import CacheError, UnsupportedError

__all__ = [
    "CutState",
    "announce",
    "base_state",
    "cache_bytes",
    "check_cache",
    "cut_layer",
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
    """What a cut cache layer remembers of the prefill.

    Attributes:
        real_keys: (b, p) bool, which of the first p physical keys are real; the others are padding.
        next_position: (..., b) rotary position of the first token after the cut prefill, with one entry per kind of position
            where a model has several.
        logical: length that those p keys stand for.
        segment: the first decoder layer whose cache holds these same tokens.
    """

    real_keys: Tensor
    next_position: Tensor
    logical: int
    segment: int

    @property
    def removed(self) -> int:
        """How many keys are missing."""
        return self.logical - self.real_keys.shape[1]


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
        self._rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch."""
        super().batch_select_indices(indices)
        self._rows(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        super().batch_repeat_interleave(repeats)
        self._rows(torch.arange(self.foveate.real_keys.shape[0]).repeat_interleave(repeats))

    def _rows(self, index: Tensor) -> None:
        state = self.foveate
        index = index.to(state.real_keys.device)
        self.foveate = replace(state, real_keys=state.real_keys[index], next_position=state.next_position[..., index])


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
            f"cannot compress into a {type(cache).__name__}{f' of {kinds}' if kinds else ''}; use the default DynamicCache "
            f"(no cache_implementation, no offloading), or remove the handle"
        )


def cache_bytes(cache: Any) -> int:
    """Bytes of all keys and values that a transformers cache holds, padding included."""
    tensors = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def physical_length(layer: Any) -> int:
    """Keys that a cache layer holds."""
    return layer.keys.shape[-2] if layer.is_initialized and layer.keys.numel() else 0


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
        rows = index.to(tensor.device)
        if rows.shape[0] == 1:
            picked = new.index_select(2, rows[0])
        else:
            picked = new.gather(2, rows[:, None, :, None].expand(-1, new.shape[1], -1, new.shape[3]))
        setattr(layer, name, torch.cat([past, picked], dim=2) if past.shape[2] else picked)


def real_columns(mask: Tensor | None, start: int, end: int, batch: int, device: torch.device) -> Tensor:
    """Which logical columns start..end of an incoming 2-D mask are real, (b, end - start) bool; all where there is no mask."""
    if mask is None:
        return torch.ones(batch, end - start, dtype=torch.bool, device=device)
    return F.pad(mask, (0, max(0, end - mask.shape[1])))[:, start:end].to(device).bool()


def real_keys(state: CutState | None, mask: Tensor | None, past: int, batch: int, device: torch.device) -> Tensor:
    """Which physical keys of a layer that stands for `past` logical tokens are real, (b, physical) bool."""
    if state is None:
        return real_columns(mask, 0, past, batch, device)
    return torch.cat([state.real_keys.to(device), real_columns(mask, state.logical, past, batch, device)], dim=1)
