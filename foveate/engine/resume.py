"""A forward pass of new tokens on a cut cache: its masks and positions, and what must hold after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.devices import require, upload
from foveate.engine.cache import CutState, base_state, layer_state, physical_length, real_columns, real_keys
from foveate.engine.inputs import DecoderInputs
from foveate.engine.invariants import check_length, check_mask
from foveate.engine.keys import causal_mask
from foveate.errors import InputError

__all__ = ["Resume", "positions_like"]


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
        if mask is None:
            order = torch.arange(past - last.logical, past - last.logical + queries, device=device)
        else:
            order = (since.cumsum(1)[:, -queries:] - 1).clamp(min=0)
        self._new = since[:, -queries:]
        self.positions = positions_like(upload(last.next_position, device)[..., None] + order, given)
        # Positions of one kind that a caller gives are taken. `generate` makes its own, which are wrong after padding on the right.
        taken = given is not None and given.ndim == 2 and last.next_position.ndim == 1 and not generating
        self.arguments: dict[str, Any] = {} if taken else {"position_ids": self.positions}
        if first is not None:
            whole = mask is None and not first.padded
            self.arguments["attention_mask"] = None if whole else torch.cat([upload(first.columns, device), since], dim=1)
        self._config, self._inputs = config, inputs
        # The layers that hold other tokens than the first one, and the masks made for them so far.
        self._others: dict[int, CutState] = {}
        for index in range(1, len(cache.layers)):
            state = layer_state(cache, index)
            if state is not first and state is not None and (first is None or state.segment != first.segment):
                self._others[index] = state
        self._masks: dict[int, Any] = {}
        self._all_shown = False

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
        if not single:
            require((given[-1] != given[-2]).any(), _positions_of_text)
        expected = self.positions[..., :1]
        early = (given[-len(expected) :] < expected) & self._new
        require(
            ~early.any(),
            lambda: InputError(
                f"position_ids of new tokens begin at {int(given.min())}, but the compressed cache stands for positions up to "
                f"{int(expected.min()) - 1}; pass those of the whole conversation, for the new tokens only"
            ),
        )
        self.arguments["position_ids"] = given

    def before_layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Give decoder layer `index` its own mask, where it holds other tokens than the first layer.

        In place: handing arguments back takes time in every layer of every step.

        Raises:
            ConsistencyError: its mask has another width than its keys will have.
        """
        if index == 0:
            self._all_shown = kwargs.get("attention_mask") is None
        elif index in self._others:
            kwargs["attention_mask"] = self._mask(index, self._others[index])
        check_mask(index, kwargs.get("attention_mask"), self._held[index] + self._queries)

    def _mask(self, index: int, state: CutState) -> Any:
        """The mask of a layer that holds other tokens than the first one."""
        if state.segment not in self._masks:
            inputs, real = self._inputs, None
            # The decoder found that no key of its first layer needs hiding, the new ones included: it need not be found out again.
            if state.padded or not self._all_shown:
                device = inputs.embeddings.device
                real = torch.cat([real_keys(state, inputs.mask, inputs.past, inputs.batch, device), self._new], dim=1)
            self._masks[state.segment] = causal_mask(self._config, inputs.embeddings, real, self._held[index])
        return self._masks[state.segment]

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


def positions_like(positions: Tensor, given: Tensor | None) -> Tensor:
    """Positions (..., b, q) with as many kinds as the decoder was given this time; text comes before the rotary axes."""
    if given is None:
        return positions
    if positions.ndim == 2:
        return positions.expand(*given.shape[:-2], -1, -1)
    return positions[-len(given) :] if given.ndim == 3 else positions[0]


def _positions_of_text() -> InputError:
    return InputError(
        "a picture or video on a compressed cache came with position_ids of text, which is what this model makes of new tokens "
        "alone; call it with position_ids (kinds, batch, new tokens), the end of what its get_rope_index gives for the whole "
        "conversation, or start over without the cache"
    )
