"""What one prefill reads out of the running decoder for the methods that ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from foveate.devices import upload
from foveate.engine.arguments import cache_of, with_cache
from foveate.engine.cache import physical_length
from foveate.engine.clock import Spans
from foveate.engine.schedule import Schedule
from foveate.engine.signals import AttentionProbe, RowsRead, only_rows
from foveate.engine.slots import Slots, last_tokens

__all__ = ["ATTENTION", "FROM_ATTENTION", "Readings"]

ATTENTION = frozenset({"last_attention", "text_attention", "head_attention"})
"""Signals that are attention rows of the layer before the method's own."""

_BEFORE = ATTENTION | {"queries", "keys", "question_keys"}
"""Signals that the attention of the layer before gives; at layer 0, that of layer 0 itself."""

FROM_ATTENTION = _BEFORE | {"next_attention"}
"""Signals for which an attention module of the decoder is read."""


class Readings:
    """Places probes where methods need them, and collects what they read.

    Args:
        schedule: the cuts.
        question: (b, s) bool on the CPU, over input columns: the question tokens of each row, at least its last token.
        first: the sequence as it enters the decoder.
        embeddings: (b, s, d), what enters it.
    """

    def __init__(self, schedule: Schedule, question: Tensor, first: Slots, embeddings: Tensor) -> None:
        self._schedule, self._question, self._first, self._embeddings = schedule, question, first, embeddings
        self._read_by_next = {index - 1 for index, method in schedule.cuts.items() if method.needs & _BEFORE}
        self._probe: AttentionProbe | None = None
        self._ahead: AttentionProbe | None = None
        self._output: Tensor | None = None
        self._earlier: Tensor | None = None

    def attach(self, index: int, slots: Slots, device: torch.device) -> None:
        """Before decoder layer `index`, whose attention the next layer's method may read."""
        if index in self._read_by_next:
            self._probe = self._place(index, self._schedule.needs_at(index + 1), slots, device)

    def looks_ahead(self, index: int) -> bool:
        """Whether the method before layer `index` reads what that layer's attention is about to see."""
        return bool(self._schedule.needs_at(index) & (FROM_ATTENTION if index == 0 else {"next_attention"}))

    def look_ahead(self, index: int, slots: Slots, states: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """What layer `index` is about to compute, for its own method: it runs up to its attention and no further."""
        needs = self._schedule.needs_at(index)
        layer = self._schedule.layers[index]
        spent = Spans()
        with spent.measure(states.device):
            probe = self._place(index, needs if index == 0 else frozenset({"next_attention"}), slots, states.device, ahead=True)
            given = with_cache(kwargs, _PeekedCache(cache_of(kwargs)))
            try:
                with torch.no_grad(), self._fewer_projections(layer, probe, slots, states):
                    layer.forward(states, *args, **given)
            except RowsRead:
                pass
            finally:
                probe.detach()
        probe.spent = spent
        self._ahead = probe
        if index == 0:
            self._probe = probe

    def _fewer_projections(self, layer: nn.Module, probe: AttentionProbe, slots: Slots, states: Tensor) -> AbstractContextManager[None]:
        """A context in which a look-ahead projects no more than what is read."""
        if probe.wants_queries:
            return nullcontext()
        rows = self._last(slots, states.device) if probe.rows is None else probe.rows
        return only_rows(self._schedule.family.attention(layer), rows)

    def enter(self, index: int, states: Tensor) -> None:
        """What layer `index` is about to get, (b, n, d), for the method of the next layer."""
        if "earlier_states" in self._schedule.needs_at(index + 1):
            self._earlier = states

    def observe(self, index: int, output: Tensor) -> None:
        """After the self-attention of layer `index`, for the method of the next layer."""
        if "attention_output" in self._schedule.needs_at(index + 1):
            self._output = output

    def collect(self, states: Tensor, slots: Slots, needs: frozenset[str]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """What was read for the method that is about to decide on `states` (b, n, d).

        Returns:
            signals with one entry per slot, (b, n, ...); and per row of the batch those of its question tokens, (q or heads, n)
            attention, (q, d) states and (q, key heads, c) keys.
        """
        whole = {"attention_output": self._output, "earlier_states": self._earlier}
        by_slot = {name: value for name, value in whole.items() if value is not None}
        by_row: list[dict[str, Tensor]] = [{} for _ in range(len(states))]
        if self._ahead is not None and self._ahead.attention is not None:
            by_slot["next_attention"] = upload(self._ahead.attention[:, -1, -states.shape[1] :], states.device)
        heads = {} if self._probe is None else {"queries": self._probe.queries, "keys": self._probe.keys}
        for name, value in heads.items():
            if value is not None:
                by_slot[name] = upload(value[:, :, -states.shape[1] :].transpose(1, 2), states.device)
        if self._probe is not None and self._probe.attention is not None:
            attention = self._probe.attention[:, :, -states.shape[1] :]
            attention = upload(attention, states.device)
            by_slot["last_attention"] = attention[:, -1]
            if "text_attention" in needs:
                for row, asked in enumerate(self._asked(slots)):
                    by_row[row]["text_attention"] = attention[row, attention.shape[1] - len(asked) :]
            if self._probe.by_head is not None:
                for row, heads in enumerate(upload(self._probe.by_head[:, :, -states.shape[1] :], states.device)):
                    by_row[row]["head_attention"] = heads
        of_question = {"question_states": states, "question_keys": by_slot.get("keys")}
        for name, source in of_question.items():
            if name in needs and source is not None:
                for row, asked in enumerate(self._asked(slots)):
                    by_row[row][name] = source[row].index_select(0, upload(asked, states.device))
        if "question_embeddings" in needs:
            embeddings = upload(self._embeddings, states.device)
            for row, asked in enumerate(self._question):
                by_row[row]["question_embeddings"] = embeddings[row].index_select(0, upload(asked.nonzero().squeeze(1), states.device))
        return by_slot, by_row

    def clear(self) -> Spans:
        """Forget all readings, and leave nothing in the model. Returns the time that reading attention took."""
        spent = Spans()
        for probe in {self._probe, self._ahead}:
            if probe is not None:
                probe.detach()
                spent.add(probe.spent)
        self._probe, self._ahead, self._output, self._earlier = None, None, None, None
        return spent

    def _asked(self, slots: Slots) -> list[Tensor]:
        """For each row the slots (q,) on the CPU that hold question tokens. All tokens from the first of them on stay in every cut."""
        columns = [row.nonzero().squeeze(1) for row in self._question]
        if slots is self._first:
            return columns
        real, width = self._first.real, slots.shape[1]
        before_end = real.sum(1, keepdim=True) - real.cumsum(1)
        return [width - 1 - left[own] for left, own in zip(before_end, columns, strict=True)]

    def _last(self, slots: Slots, device: torch.device) -> Tensor:
        """The slot (b, 1) of each row's last token."""
        rows, width = slots.shape
        if slots is not self._first or not slots.padded:
            return torch.full((rows, 1), width - 1, device=device)
        return upload(last_tokens(slots.real)[:, None], device)

    def _place(self, index: int, needs: frozenset[str], slots: Slots, device: torch.device, ahead: bool = False) -> AttentionProbe:
        """A probe for heads, and for the rows of the last token alone or of all question tokens; shorter rows are filled in front."""
        attention, shares = self._schedule.family.attention(self._schedule.layers[index]), None
        keys, queries = bool(needs & {"keys", "question_keys"}), "queries" in needs
        if not needs & {"text_attention", "head_attention"}:
            rows = self._last(slots, device) if needs & {"last_attention", "next_attention"} else None
            return AttentionProbe(attention, rows, ahead=ahead, keys=keys, queries=queries)
        found = self._asked(slots)
        width = max(map(len, found))
        rows = torch.stack([torch.cat([row[:1].expand(max(0, width - len(row))), row[-width:]]) for row in found])
        if "head_attention" in needs:
            counts = torch.tensor([[len(row)] for row in found])
            shares = upload((torch.arange(width) >= width - counts) / counts, device)
        return AttentionProbe(attention, upload(rows, device), shares, ahead=ahead, keys=keys, queries=queries)


class _PeekedCache:
    """Stands in for a cache: shows the earlier keys to one attention call and stores nothing."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        layer = self._cache.layers[layer_idx] if layer_idx < len(self._cache.layers) else None
        return (torch.cat([layer.keys, key], dim=2) if layer is not None and physical_length(layer) else key), value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)
