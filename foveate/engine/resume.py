"""A forward pass of new tokens on a cut cache: its masks and positions, and what must hold after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.engine.cache import base_state, layer_state, physical_length, real_columns, real_keys
from foveate.engine.inputs import DecoderInputs
from foveate.engine.invariants import check_length, check_mask
from foveate.engine.keys import causal_mask
from foveate.errors import InputError

__all__ = ["Resume"]


class Resume:
    """Masks and positions for new tokens after a cut prefill, at any number of turns.

    Args:
        config: the decoder's.
        inputs: what the decoder was given: the new tokens (b, q, d) and a cut cache.
        generating: whether `generate` makes the call.

    Attributes:
        positions: (..., b, q), the positions of the new tokens.
        arguments: what the decoder is to be given instead, by name.
    """

    def __init__(self, config: Any, inputs: DecoderInputs, *, generating: bool) -> None:
        cache, given, mask, past = inputs.cache, inputs.position_ids, inputs.mask, inputs.past
        last, first = base_state(cache), layer_state(cache, 0)
        assert last is not None
        batch, queries, device = inputs.batch, inputs.tokens, inputs.embeddings.device
        self._layers, self._held, self._queries = cache.layers, inputs.held, queries
        since = real_columns(mask, last.logical, past + queries, batch, device)
        order = (since.long().cumsum(1)[:, -queries:] - 1).clamp(min=0)
        new = self._new = since[:, -queries:]
        self.positions = _like(last.next_position.to(device)[..., None] + order, given)
        # Positions of one kind that a caller gives are taken. `generate` makes its own, which are wrong after padding on the right.
        taken = given is not None and given.ndim == 2 and last.next_position.ndim == 1 and not generating
        self.arguments: dict[str, Any] = {} if taken else {"position_ids": self.positions}
        if first is not None:
            gone = torch.zeros(batch, first.removed, dtype=torch.bool, device=device)
            self.arguments["attention_mask"] = torch.cat([gone, real_keys(first, mask, past, batch, device), new], dim=1)
        self._masks: dict[int, Any] = {}
        masks: dict[int, Any] = {}
        for index in range(len(cache.layers)):
            state = layer_state(cache, index)
            if state is None or (first is not None and state.segment == first.segment):
                continue
            if state.segment not in masks:
                real = torch.cat([real_keys(state, mask, past, batch, device), new], dim=1)
                masks[state.segment] = causal_mask(config, inputs.embeddings, real, real.shape[1] - queries)
            self._masks[index] = masks[state.segment]

    def keep_axes(self, given: Tensor | None, single: bool) -> None:
        """A new image among the tokens has its own positions per rotary axis, which only the model can know: use those that it was given.

        Args:
            given: (kinds, b, q), the positions that the decoder was given; nothing is done where positions have one kind.
            single: whether every new image is one token, which stands where text would.

        Raises:
            InputError: the model was given positions of text, or some that do not continue those of the cache.
        """
        if given is None or given.ndim != 3:
            return
        if not single and bool((given[-1] == given[-2]).all()):
            raise InputError(
                "a picture or video on a compressed cache came with position_ids of text, which is what this model makes of new tokens "
                "alone; call it with position_ids (kinds, batch, new tokens), the end of what its get_rope_index gives for the whole "
                "conversation, or start over without the cache"
            )
        expected = self.positions[..., :1]
        early = (given[-len(expected) :] < expected) & self._new
        if bool(early.any()):
            raise InputError(
                f"position_ids of new tokens begin at {int(given.min())}, but the compressed cache stands for positions up to "
                f"{int(expected.min()) - 1}; pass those of the whole conversation, for the new tokens only"
            )
        self.arguments["position_ids"] = given

    def before_layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Give decoder layer `index` its own mask, where it holds other tokens than the first layer.

        In place: handing arguments back takes time in every layer of every step.

        Raises:
            ConsistencyError: its mask has another width than its keys will have.
        """
        if index in self._masks:
            kwargs["attention_mask"] = self._masks[index]
        check_mask(index, kwargs.get("attention_mask"), self._held[index] + self._queries)

    def after_layer(self, index: int, states: Tensor) -> Tensor:
        """Nothing is added to new tokens."""
        return states

    def after_attention(self, index: int, output: Tensor) -> None:
        """No method reads new tokens."""

    def close(self) -> None:
        """Nothing was left in the model."""

    def finish(self) -> None:
        """After the decoder's last layer.

        Raises:
            ConsistencyError: a layer's cache did not grow by the new tokens.
        """
        for index, (layer, held) in enumerate(zip(self._layers, self._held, strict=True)):
            check_length(index, physical_length(layer), held + self._queries)


def _like(positions: Tensor, given: Tensor | None) -> Tensor:
    """Positions (..., b, q) with as many kinds as the decoder was given this time; text comes before the rotary axes."""
    if given is None:
        return positions
    if positions.ndim == 2:
        return positions.expand(*given.shape[:-2], -1, -1)
    return positions[-len(given) :] if given.ndim == 3 else positions[0]
