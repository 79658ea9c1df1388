"""Which keys each decoder layer holds during one pass: those of earlier passes, and those of the present sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from foveate.engine.cache import CutState, layer_state, physical_length, real_keys, trim_layer
from foveate.engine.inputs import DecoderInputs
from foveate.engine.invariants import check_length
from foveate.engine.slots import Route, Slots

__all__ = ["Keys", "causal_mask"]


class _MaskSizes:
    """Stands in for a cache where transformers asks one for the sizes of a mask."""

    is_compileable = False

    def __init__(self, past: int) -> None:
        self.past = past

    def get_query_offset(self, layer_idx: int = 0) -> int:
        return self.past

    get_seq_length = get_query_offset

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        return self.past + query_length, 0


def causal_mask(config: Any, states: Tensor, real: Tensor | None, past: int) -> Any:
    """The mask that the decoder's own attention kernel wants, for `past` earlier keys and causal `states` (b, q, d).

    Args:
        config: the decoder's.
        states: what enters the layer.
        real: (b, past + q) bool, false where a key is padding; `None` when none is.
        past: keys that the layer holds already.
    """
    return create_causal_mask(config, states, real, _MaskSizes(past))


class Keys:
    """The keys of every layer, for the masks of a shorter sequence and for what the cache must remember.

    Args:
        config: the decoder's.
        inputs: what the decoder was given.
    """

    def __init__(self, config: Any, inputs: DecoderInputs) -> None:
        self._config, self._inputs = config, inputs
        self._masks: dict[int | None, Any] = {}

    def held(self, index: int) -> int:
        """Keys that the cache of layer `index` held before this pass."""
        held = self._inputs.held
        return held[index] if index < len(held) else 0

    def mask(self, index: int, states: Tensor, slots: Slots, cache: Any) -> Any:
        """The mask of layer `index` for the present sequence; layers whose caches hold the same earlier tokens share it."""
        state = layer_state(cache, index)
        segment = None if state is None else state.segment
        if segment not in self._masks:
            real = self._real(state, slots, states.device if self._inputs.past else torch.device("cpu"))
            padded = None if bool(real.all()) else real.to(states.device)
            self._masks[segment] = causal_mask(self._config, states, padded, real.shape[1] - states.shape[1])
        return self._masks[segment]

    def trim(self, index: int, cache: Any, route: Route) -> None:
        """Take what leaves before layer `index` out of the caches of the layers before it."""
        present = route.target.shape[1]
        for earlier, layer in enumerate(cache.layers[:index]):
            check_length(earlier, physical_length(layer), self.held(earlier) + present)
            trim_layer(layer, route.source, present)

    def forget_masks(self) -> None:
        """The sequence has changed: masks made so far are those of another one."""
        self._masks = {}

    def state(self, cache: Any, index: int, segment: int, slots: Slots, next_position: Tensor) -> CutState:
        """What the cache of layer `index` must remember after this pass."""
        device = cache.layers[index].keys.device
        real = self._real(layer_state(cache, index), slots, device)
        return CutState(real, next_position.to(device), self._inputs.past + self._inputs.tokens, segment)

    def _real(self, state: CutState | None, slots: Slots, device: torch.device) -> Tensor:
        inputs = self._inputs
        past = real_keys(state, inputs.mask, inputs.past, inputs.batch, device)
        return torch.cat([past, slots.real.to(device)], dim=1)
