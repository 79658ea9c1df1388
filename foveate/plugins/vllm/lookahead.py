"""Runs the first decoder layers of a served model over one image and its text, ahead of the prefill and outside vLLM's cache.

The layers that run are the model's own. Shallow copies of them share all weights and have one part replaced: attention over a paged cache
becomes causal attention over the sequence at hand. The served modules themselves are never touched.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from vllm.distributed import (
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_gather,
    tensor_model_parallel_all_reduce,
)

from foveate.engine.signals.attention import RowsRead, attention_maps
from foveate.errors import UnsupportedModelError

__all__ = ["ATTENTION", "Lookahead", "AheadInput", "mean_over_ranks"]

ATTENTION = frozenset({"last_attention", "text_attention", "head_attention"})
"""Signals that are attention of text to visual tokens."""
BLOCK = 2**25
"""Attention logits that are held at once."""


@dataclass(frozen=True)
class AheadInput:
    """One image with its text, as the decoder would see it.

    Attributes:
        embeddings: (s, d).
        positions: (s,), or (3, s) where the decoder has three kinds.
        visual: (n,) the places of the visual tokens.
        question: how many tokens at the end are question tokens; at least one.
        injections: for each decoder layer, from layer 0, what the model adds to the output at the places `injected`.
        injected: (N,) those places.
    """

    embeddings: Tensor
    positions: Tensor
    visual: Tensor
    question: int
    injections: Sequence[Tensor] = ()
    injected: Tensor | None = None


@dataclass
class _Reading:
    """What is read in one call of an attention module."""

    wanted: frozenset[str]
    sequence: AheadInput
    ahead: bool
    found: dict[str, Tensor] = field(default_factory=dict)

    def read(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Queries (1, heads, s, d) and keys (1, key heads, s, d) of this rank's heads."""
        length, visual = query.shape[2], self.sequence.visual
        rows = torch.arange(length - self.sequence.question, length, device=query.device)
        means, by_head = [], []
        # Few rows, but long sequences have many keys.
        for part in rows.split(max(1, BLOCK // (query.shape[1] * length))):
            maps = attention_maps(query, key, part[None], None, scaling=scaling)[0].index_select(2, visual)
            means.append(maps.mean(0))
            by_head.append(maps.sum(1))
        text = mean_over_ranks(torch.cat(means))
        self.found["text_attention"], self.found["last_attention"] = text, text[-1]
        if "head_attention" in self.wanted:
            heads = torch.stack(by_head).sum(0) / len(rows)
            self.found["head_attention"] = tensor_model_parallel_all_gather(heads, 0) if _ranks() > 1 else heads
        if self.ahead:
            raise RowsRead


class _DenseAttention(nn.Module):
    """Causal attention over the sequence at hand, in place of vLLM's over its cache.

    Args:
        attention: vLLM's, of which the shape is taken.
        scaling: factor of the logits.
    """

    def __init__(self, attention: Any, scaling: float) -> None:
        super().__init__()
        self.heads, self.key_heads, self.width, self.scaling = attention.num_heads, attention.num_kv_heads, attention.head_size, scaling
        self.reading: _Reading | None = None

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Query (s, heads * d), key and value (s, key heads * d); returns (s, heads * d)."""
        queries = query.reshape(1, -1, self.heads, self.width).transpose(1, 2)
        keys, values = (each.reshape(1, -1, self.key_heads, self.width).transpose(1, 2) for each in (key, value))
        if self.reading is not None:
            self.reading.read(queries, keys, self.scaling)
        out = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=self.scaling, enable_gqa=True)
        return out.transpose(1, 2).reshape(query.shape)


class Lookahead:
    """The first layers of a served decoder.

    Args:
        decoder: the module with `layers`, as vLLM builds it for Llama, Mistral, Qwen2 and Qwen3.
        layer: the layer that the method acts before; as many layers run, and at 0 the first one up to its queries and keys.

    Raises:
        UnsupportedModelError: the decoder has fewer layers on this rank, or layers of a kind that cannot run ahead.
    """

    def __init__(self, decoder: Any, layer: int) -> None:
        wanted = max(1, layer)
        if decoder.start_layer != 0 or decoder.end_layer < wanted:
            raise UnsupportedModelError(
                f"a method of layer {layer} reads layers 0 to {wanted - 1}, and this pipeline stage has layers "
                f"{decoder.start_layer} to {decoder.end_layer - 1}; use fewer pipeline stages or a lower layer"
            )
        self.layer = layer
        self._layers: list[Any] = []
        self._attention: list[_DenseAttention] = []
        for number in range(wanted):
            dense = _DenseAttention(*_attention(decoder.layers[number], number))
            self._attention.append(dense)
            served = decoder.layers[number]
            self._layers.append(_twin(served, self_attn=_twin(served.self_attn, attn=dense)))

    @torch.no_grad()
    def run(self, sequence: AheadInput, needs: frozenset[str]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Run the layers.

        Returns:
            the states (n, d) of the visual tokens at the entry of the method's layer, and the signals named in `needs` that the decoder
            gives.
        """
        if self.layer == 0:
            return sequence.embeddings.index_select(0, sequence.visual), self._at_input(sequence, needs)
        found: dict[str, Tensor] = {}
        hidden, residual = sequence.embeddings, None
        for number, layer in enumerate(self._layers):
            last = number == len(self._layers) - 1
            hook = None
            if last and "attention_output" in needs:
                hook = layer.self_attn.register_forward_hook(lambda module, args, output: found.__setitem__("attention_output", output))
            reading = self._listen(number, sequence, needs, ahead=False) if last and needs & ATTENTION else None
            try:
                hidden, residual = layer(sequence.positions, hidden, residual)
            finally:
                self._attention[number].reading = None
                if hook is not None:
                    hook.remove()
            if number < len(sequence.injections) and sequence.injected is not None:
                hidden = hidden.index_add(0, sequence.injected, sequence.injections[number])
            if reading is not None:
                found.update(reading.found)
        states: Tensor = hidden + residual  # type: ignore[operator]
        if "attention_output" in found:
            found["attention_output"] = found["attention_output"].index_select(0, sequence.visual)
        if "question_states" in needs:
            found["question_states"] = states[len(states) - sequence.question :]
        return states.index_select(0, sequence.visual), {name: value for name, value in found.items() if name in needs}

    def _at_input(self, sequence: AheadInput, needs: frozenset[str]) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        if needs & ATTENTION:
            reading = self._listen(0, sequence, needs, ahead=True)
            try:
                self._layers[0](sequence.positions, sequence.embeddings, None)
            except RowsRead:
                pass
            finally:
                self._attention[0].reading = None
            found.update(reading.found)
        if "question_states" in needs:
            found["question_states"] = sequence.embeddings[len(sequence.embeddings) - sequence.question :]
        return {name: value for name, value in found.items() if name in needs}

    def _listen(self, number: int, sequence: AheadInput, needs: frozenset[str], *, ahead: bool) -> _Reading:
        reading = self._attention[number].reading = _Reading(needs, sequence, ahead)
        return reading


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over all tensor-parallel ranks of what each computed from its equal share of the heads."""
    return tensor_model_parallel_all_reduce(values) / _ranks() if _ranks() > 1 else values


def _ranks() -> int:
    return get_tensor_model_parallel_world_size()


def _attention(layer: Any, number: int) -> tuple[Any, float]:
    """A layer's attention over vLLM's cache, and the factor of its logits."""
    module = getattr(layer, "self_attn", None)
    attention = getattr(module, "attn", None)
    if module is None or attention is None or not hasattr(module, "scaling"):
        raise UnsupportedModelError(
            f"decoder layer {number} is a {type(layer).__name__}, which cannot run ahead of the prefill; use a method that reads vision "
            f"features alone, such as pool"
        )
    if getattr(attention, "sliding_window", None) is not None:
        raise UnsupportedModelError(
            f"decoder layer {number} sees a window of {attention.sliding_window} tokens, and methods that read the decoder are not "
            f"supported there; use a method that reads vision features alone, such as pool"
        )
    return attention, float(module.scaling)


def _twin(module: nn.Module, **replaced: nn.Module) -> Any:
    """A shallow copy that shares all weights and parts but those that are replaced, and has no hooks."""
    twin = copy.copy(module)
    state = twin.__dict__
    state["_modules"] = {**module._modules, **replaced}
    for name in [name for name in state if name.endswith("_hooks") or "_hooks_" in name]:
        state[name] = OrderedDict()
    return twin
