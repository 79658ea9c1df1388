"""Which keys each decoder layer holds during one pass: those of earlier passes, and those of the present sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from foveate.devices import upload
from foveate.engine.cache import CutState, layer_state, physical_length, real_columns, real_keys, trim_layer
from foveate.engine.inputs import DecoderInputs
from foveate.engine.invariants import check_length
from foveate.engine.slots import Route, Slots

__all__ = ["Keys", "causal_mask"]

_CPU = torch.device("cpu")


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
        real: (b, past + q) bool, false where a key is padding; `None` when none is. It is not read, so that nobody waits for it.
        past: keys that the layer holds already.
    """
    return create_causal_mask(config, states, real, _MaskSizes(past), allow_is_causal_skip=real is None)


class Keys:
    """The keys of every layer, for the masks of a shorter sequence and for what the cache must remember.

    Args:
        config: the decoder's.
        inputs: what the decoder was given.
    """

    def __init__(self, config: Any, inputs: DecoderInputs) -> None:
        self._config, self._inputs = config, inputs
        self._masks: dict[int | None, Any] = {}
        self._states: dict[tuple[int, int, torch.device], CutState] = {}

    def held(self, index: int) -> int:
        """Keys that the cache of layer `index` held before this pass."""
        held = self._inputs.held
        return held[index] if index < len(held) else 0

    def mask(self, index: int, states: Tensor, slots: Slots, cache: Any) -> Any:
        """The mask of layer `index` for the present sequence; layers whose caches hold the same earlier tokens share it."""
        state = layer_state(cache, index)
        segment = None if state is None else state.segment
        if segment not in self._masks:
            real = self._real(state, slots, states.device) if self._padded(state, slots) else None
            self._masks[segment] = causal_mask(self._config, states, real, self.held(index))
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
        device, known = cache.layers[index].keys.device, layer_state(cache, index)
        key = (id(known), segment, device)
        if key not in self._states:
            real, inputs = self._real(known, slots, device), self._inputs
            position, logical = upload(next_position, device), inputs.past + inputs.tokens
            self._states[key] = CutState(real, position, logical, segment, self._padded(known, slots))
        return self._states[key]

    def _padded(self, state: CutState | None, slots: Slots) -> bool:
        """Whether any key of a layer is padding, as far as the host knows."""
        inputs = self._inputs
        if slots.padded or (state is not None and state.padded):
            return True
        past = real_columns(inputs.host_mask, 0 if state is None else state.logical, inputs.past, inputs.batch, _CPU)
        return inputs.past > 0 and not bool(past.all())

    def _real(self, state: CutState | None, slots: Slots, device: torch.device) -> Tensor:
        inputs = self._inputs
        present = upload(slots.real, device)
        return (
            torch.cat([real_keys(state, inputs.host_mask, inputs.past, inputs.batch, device), present], dim=1) if inputs.past else present
        )
