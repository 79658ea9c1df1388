"""Several decoder layers, compiled for inputs of one shape, and run on all that are at most as long."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.arguments import as_argument

__all__ = ["LayerInputs", "Stretch"]

MODES = {"cuda": "reduce-overhead"}
"""Modes of torch.compile, by type of device: on CUDA the one with CUDA graphs. Elsewhere its default."""


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
        """What code that is compiled for `tokens` tokens per row depends on."""
        states, mask = self.states, self.mask
        rotary = tuple((part.shape[:-2], part.shape[-1], part.dtype) for part in self.rotary)
        masked = None if mask is None else (mask.shape[:2], mask.dtype)
        return (states.device, states.dtype, states.shape[0], states.shape[2], tokens, rotary, masked, *sorted(self.options.items()))


class _Keeper:
    """Stands in for a cache: notes the keys and values of each layer, (b, key heads, n, head dimension) each."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.keys.append(key)
        self.values.append(value)
        return key, value


class Stretch:
    """Layers that run as one piece of compiled code. Shorter inputs are padded on the right, where no real token sees the padding.

    Args:
        layers: in order.
        inputs: a first input; it says all shapes but the number of tokens.
        tokens: the most tokens per row that an input may have.
        positions: give the layers position_ids, 0 .. tokens - 1; flash kernels would read them, and wait, to find packed sequences.
    """

    def __init__(self, layers: Sequence[nn.Module], inputs: LayerInputs, tokens: int, *, positions: bool) -> None:
        self._count = len(layers)
        batch, _, width = inputs.states.shape
        # Tensors of inference mode have code of their own, and could not be written to outside of it.
        with torch.inference_mode(False), torch.no_grad():
            self._states = inputs.states.new_zeros(batch, tokens, width)
            self._rotary = tuple(part.new_zeros(*part.shape[:-2], tokens, part.shape[-1]) for part in inputs.rotary)
            self._mask = None if inputs.mask is None else inputs.mask.new_zeros(*inputs.mask.shape[:2], tokens, tokens)
            self._order = torch.arange(tokens, device=inputs.states.device).expand(batch, -1) if positions else None
        options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
        if inputs.states.device.type in MODES:
            options["mode"] = MODES[inputs.states.device.type]
        self._run: Callable[..., tuple[Tensor, list[Tensor], list[Tensor]]] = torch.compile(_code(layers, inputs.options), **options)

    def run(self, inputs: LayerInputs) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """States (b, n, d) after the last layer, and the keys and values (b, key heads, n, head dimension) of each.

        All of them are valid until the next run: under CUDA graphs they are overwritten in place.

        Raises:
            Exception: whatever cannot be compiled, or run as compiled.
        """
        with torch.inference_mode(False), torch.no_grad():
            self._fill(inputs)
            if inputs.states.is_cuda:
                torch.compiler.cudagraph_mark_step_begin()
            states, keys, values = self._run(self._states, self._rotary, self._mask, self._order)
        tokens = inputs.tokens
        return states[:, :tokens], [part[:, :, :tokens] for part in keys], [part[:, :, :tokens] for part in values]

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


def _code(layers: Sequence[nn.Module], options: Mapping[str, Any]) -> Callable[..., Any]:
    """What is compiled: the layers' own forward, without their hooks, which belong to the pass that runs it.

    Each time as a new code object, because torch.compile counts the versions of each and gives up after some.
    """
    cache_name = next(iter(as_argument(None)))
    given = dict(options)

    def layers_after_the_cut(states: Tensor, rotary: Any, mask: Any, order: Any) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        keeper = _Keeper()
        for layer in layers:
            arguments = {**given, cache_name: keeper, "attention_mask": mask, "position_embeddings": rotary, "position_ids": order}
            states = type(layer).forward(layer, states, **arguments)
        return states, keeper.keys, keeper.values

    code = layers_after_the_cut.__code__.replace()
    return types.FunctionType(code, globals(), code.co_name, None, layers_after_the_cut.__closure__)


def _fill_mask(own: Tensor, mask: Tensor) -> None:
    """Write a mask (..., n, n) into a larger one: real tokens do not see padding, and padding sees everything, which keeps it finite."""
    tokens = mask.shape[-1]
    boolean = mask.dtype == torch.bool
    own[..., :tokens, :tokens].copy_(mask)
    own[..., :tokens, tokens:].fill_(False if boolean else torch.finfo(mask.dtype).min)
    own[..., tokens:, :].fill_(True if boolean else 0)
