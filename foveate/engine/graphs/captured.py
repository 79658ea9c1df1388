"""Several decoder layers on inputs of one shape, captured once and replayed on others that are at most as long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.arguments import as_argument
from foveate.engine.graphs.devices import Recorder

__all__ = ["Captured", "LayerInputs"]


@dataclass(frozen=True)
class LayerInputs:
    """What the first of the layers is given.

    Attributes:
        states: (b, n, d).
        rotary: cos and sin, (..., n, head dimension) each.
        mask: `None` where the kernel is causal by itself, or (1 or b, 1 or heads, n, n), boolean (true = visible) or additive.
        options: further arguments by name, plain values.
    """

    states: Tensor
    rotary: tuple[Tensor, ...]
    mask: Tensor | None
    options: Mapping[str, Any]

    @property
    def tokens(self) -> int:
        """Tokens per row."""
        return self.states.shape[1]

    def key(self, tokens: int) -> tuple[Any, ...]:
        """What one graph, made for `tokens` tokens per row, depends on."""
        states, mask = self.states, self.mask
        rotary = tuple((part.shape[:-2], part.shape[-1], part.dtype) for part in self.rotary)
        masked = None if mask is None else (mask.shape[:2], mask.dtype)
        return (states.device, states.dtype, states.shape[0], states.shape[2], tokens, rotary, masked, *sorted(self.options.items()))


class _Keeper:
    """Stands in for a cache: keeps each layer's keys and values in one place, over all runs.

    Attributes:
        kept: per layer index its keys and values, (b, key heads, n, head dimension) each.
    """

    def __init__(self) -> None:
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if layer_idx not in self.kept:
            self.kept[layer_idx] = (key.new_empty(key.shape), value.new_empty(value.shape))
        for kept, new in zip(self.kept[layer_idx], (key, value), strict=True):
            kept.copy_(new)
        return self.kept[layer_idx]


class Captured:
    """One graph. Shorter inputs are padded on the right, where no real token sees the padding.

    Args:
        layers: in order.
        inputs: a first input; it says all shapes but the number of tokens.
        tokens: the most tokens per row that an input may have.
        positions: give the layers position_ids, 0 .. tokens - 1; flash kernels would read them, and wait, to find packed sequences.
        recorder: captures the work.

    Raises:
        TypeError: a layer returns something else than states.
        Exception: whatever the layers raise, and capture of what the device cannot capture.
    """

    def __init__(self, layers: Sequence[nn.Module], inputs: LayerInputs, tokens: int, *, positions: bool, recorder: Recorder) -> None:
        self._layers = layers
        batch, _, width = inputs.states.shape
        # Tensors of inference mode could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._states = inputs.states.new_zeros(batch, tokens, width)
            self._rotary = tuple(part.new_zeros(*part.shape[:-2], tokens, part.shape[-1]) for part in inputs.rotary)
            self._mask = None if inputs.mask is None else inputs.mask.new_zeros(*inputs.mask.shape[:2], tokens, tokens)
            self._keeper = _Keeper()
            self._output = self._states
            order = torch.arange(tokens, device=inputs.states.device).expand(batch, -1) if positions else None
            self._arguments = {
                **inputs.options,
                **as_argument(self._keeper),
                "attention_mask": self._mask,
                "position_embeddings": self._rotary,
                "position_ids": order,
            }
            self._fill(inputs)
            self._run()  # makes the places for keys and values, outside the graph's own memory
            self._replay: Callable[[], None] = recorder.capture(self._run)

    @property
    def nbytes(self) -> int:
        """Bytes of its inputs, keys and values."""
        mask = [] if self._mask is None else [self._mask]
        kept = [tensor for pair in self._keeper.kept.values() for tensor in pair]
        return sum(tensor.nbytes for tensor in [self._states, *self._rotary, *mask, *kept])

    def run(self, inputs: LayerInputs, cache: Any) -> Tensor:
        """The states (b, n, d) after the last layer; keys and values go to `cache`, if there is one."""
        with torch.no_grad():
            self._fill(inputs)
            self._replay()
            if cache is not None:
                for index, (keys, values) in self._keeper.kept.items():
                    cache.update(keys[:, :, : inputs.tokens], values[:, :, : inputs.tokens], index)
            return self._output[:, : inputs.tokens].clone()

    def _run(self) -> None:
        states = self._states
        for layer in self._layers:
            # Not the call: hooks of the layer belong to the pass that replays the graph.
            states = layer.forward(states, **self._arguments)
            if not isinstance(states, Tensor):
                raise TypeError(f"{type(layer).__name__} returns a {type(states).__name__} instead of states")
        self._output = states

    def _fill(self, inputs: LayerInputs) -> None:
        tokens = inputs.tokens
        self._states[:, :tokens].copy_(inputs.states)
        for own, part in zip(self._rotary, inputs.rotary, strict=True):
            own[..., :tokens, :].copy_(part)
        if tokens < self._states.shape[1]:
            # What an earlier input left there may not be finite, and a weight of zero times infinity is not zero.
            self._states[:, tokens:].zero_()
        if self._mask is not None and inputs.mask is not None:
            _fill_mask(self._mask, inputs.mask)


def _fill_mask(own: Tensor, mask: Tensor) -> None:
    """Write a mask (..., n, n) into a larger one: real tokens do not see padding, and padding sees everything, which keeps it finite."""
    tokens = mask.shape[-1]
    boolean = mask.dtype == torch.bool
    own[..., :tokens, :tokens].copy_(mask)
    own[..., :tokens, tokens:].fill_(False if boolean else torch.finfo(mask.dtype).min)
    own[..., tokens:, :].fill_(True if boolean else 0)
