"""What one prefill reads out of the running decoder for the methods that ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.engine.arguments import cache_of, with_cache
from foveate.engine.cache import physical_length
from foveate.engine.clock import seconds
from foveate.engine.schedule import Schedule
from foveate.engine.signals import AttentionProbe, RowsRead, only_rows
from foveate.engine.slots import Slots

__all__ = ["ATTENTION", "Readings"]

ATTENTION = frozenset({"last_attention", "text_attention", "head_attention"})
"""Signals that are attention rows of a decoder layer."""


class Readings:
    """Places probes where methods need them, and collects what they read.

    Args:
        schedule: the cuts.
        question: (b, s) bool on the CPU, over input columns: the question tokens of each row, at least its last token.
    """

    def __init__(self, schedule: Schedule, question: Tensor) -> None:
        self._schedule, self._question = schedule, question
        self._probe: AttentionProbe | None = None
        self._output: Tensor | None = None

    def attach(self, index: int, slots: Slots, device: torch.device) -> None:
        """Before decoder layer `index`, whose attention the next layer's method may read."""
        needs = self._schedule.needs_at(index + 1)
        if needs & ATTENTION:
            self._probe = self._place(index, needs, slots, device)

    def look_ahead(self, slots: Slots, states: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """The attention rows that layer 0 is about to compute, for its own method: it runs up to its attention and no further."""
        needs = self._schedule.needs_at(0)
        if not needs & ATTENTION:
            return
        layer = self._schedule.layers[0]
        start = seconds(states.device)
        self._probe = self._place(0, needs, slots, states.device, ahead=True)
        given = with_cache(kwargs, _PeekedCache(cache_of(kwargs)))
        try:
            with torch.no_grad(), only_rows(self._schedule.family.attention(layer), self._probe.rows):
                layer.forward(states, *args, **given)
        except RowsRead:
            pass
        finally:
            self._probe.detach()
        self._probe.seconds = seconds(states.device) - start

    def observe(self, index: int, output: Tensor) -> None:
        """After the self-attention of layer `index`, for the method of the next layer."""
        if "attention_output" in self._schedule.needs_at(index + 1):
            self._output = output

    def collect(self, states: Tensor, slots: Slots, needs: frozenset[str]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """What was read for the method that is about to decide on `states` (b, n, d).

        Returns:
            signals with one entry per slot, (b, n, ...); and per row of the batch those of its question tokens, (q or heads, n)
            attention and (q, d) states.
        """
        by_slot: dict[str, Tensor] = {} if self._output is None else {"attention_output": self._output.to(states.device)}
        by_row: list[dict[str, Tensor]] = [{} for _ in range(len(states))]
        if self._probe is not None and self._probe.attention is not None:
            attention = self._probe.attention[:, :, -states.shape[1] :].to(states.device)
            by_slot["last_attention"] = attention[:, -1]
            if "text_attention" in needs:
                for row, count in enumerate(self._asked(slots).sum(1).tolist()):
                    by_row[row]["text_attention"] = attention[row, attention.shape[1] - count :]
            if self._probe.by_head is not None:
                for row, heads in enumerate(self._probe.by_head[:, :, -states.shape[1] :].to(states.device)):
                    by_row[row]["head_attention"] = heads
        if "question_states" in needs:
            for row, asked in enumerate(self._asked(slots).to(states.device)):
                by_row[row]["question_states"] = states[row, asked]
        return by_slot, by_row

    def clear(self) -> float:
        """Forget all readings, and leave nothing in the model. Returns the seconds that reading attention took."""
        spent = 0.0
        if self._probe is not None:
            self._probe.detach()
            spent = self._probe.seconds
        self._probe, self._output = None, None
        return spent

    def _asked(self, slots: Slots) -> Tensor:
        """Which slots (b, n) hold question tokens."""
        return self._question.gather(1, slots.input_columns.clamp(min=0)) & slots.real

    def _place(self, index: int, needs: frozenset[str], slots: Slots, device: torch.device, ahead: bool = False) -> AttentionProbe:
        """A probe for the query rows of the last token alone, or of all question tokens; shorter rows are filled up in front."""
        found = [row.nonzero().squeeze(1) for row in self._asked(slots)]
        width = max(map(len, found)) if needs & {"text_attention", "head_attention"} else 1
        rows = torch.stack([torch.cat([row[:1].expand(max(0, width - len(row))), row[-width:]]) for row in found])
        counts = torch.tensor([[len(row)] for row in found])
        shares = (torch.arange(width) >= width - counts) / counts if "head_attention" in needs else None
        attention = self._schedule.family.attention(self._schedule.layers[index])
        return AttentionProbe(attention, rows.to(device), shares, ahead=ahead)


class _PeekedCache:
    """Stands in for a cache: shows the earlier keys to one attention call and stores nothing."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        layer = self._cache.layers[layer_idx] if layer_idx < len(self._cache.layers) else None
        return (torch.cat([layer.keys, key], dim=2) if layer is not None and physical_length(layer) else key), value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)
