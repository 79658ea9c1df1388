"""What one prefill reads out of the running decoder for the methods that ask for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.arguments import cache_of, with_cache
from foveate.engine.cache import physical_length
from foveate.engine.clock import seconds
from foveate.engine.signals import AttentionProbe, Enough, only_rows
from foveate.families import Family
from foveate.method import Method

__all__ = ["ATTENTION", "Readings"]

ATTENTION = frozenset({"last_attention", "text_attention", "head_attention"})
"""Signals that are attention rows of a decoder layer."""


class Readings:
    """Places probes where methods need them, and hands over what they read.

    Args:
        family: the model's family.
        layers: the decoder's layers.
        cuts: the method at each decoder layer where tokens leave.
        question: (b, s) bool on the CPU, over input columns: the question tokens of each row, at least its last token.
    """

    def __init__(self, family: Family, layers: Sequence[nn.Module], cuts: Mapping[int, Method], question: Tensor) -> None:
        self._family, self._layers, self._cuts, self._question = family, layers, cuts, question
        self._probe: AttentionProbe | None = None
        self._output: Tensor | None = None

    def attach(self, index: int, columns: Tensor, valid: Tensor, device: torch.device) -> None:
        """Before decoder layer `index`, whose attention the next layer's method may want. Columns as in `Report.columns`."""
        needs = self._cuts[index + 1].needs if index + 1 in self._cuts else frozenset()
        if needs & ATTENTION:
            self._probe = self._place(index, needs, columns, valid, device)

    def look_ahead(
        self, needs: frozenset[str], columns: Tensor, valid: Tensor, states: Tensor, args: Any, kwargs: Mapping[str, Any]
    ) -> None:
        """The attention rows that layer 0 is about to compute: it runs up to its attention and no further."""
        if not needs & ATTENTION:
            return
        layer = self._layers[0]
        start = seconds(states.device)
        self._probe = self._place(0, needs, columns, valid, states.device, ahead=True)
        cache = cache_of(kwargs)
        given = with_cache(kwargs, _Glance(cache))
        try:
            with torch.no_grad(), only_rows(self._family.attention(layer), self._probe.rows):
                layer.forward(states, *args, **given)
        except Enough:
            pass
        finally:
            self._probe.detach()
        self._probe.seconds = seconds(states.device) - start

    def observe(self, index: int, output: Tensor) -> None:
        """Behind the self-attention of layer `index`, for the method of the next layer."""
        if index + 1 in self._cuts and "attention_output" in self._cuts[index + 1].needs:
            self._output = output

    def collect(
        self, states: Tensor, columns: Tensor, valid: Tensor, needs: frozenset[str]
    ) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
        """What was read for the method that is about to decide on `states` (b, n, d).

        Returns:
            signals with one entry per place of the sequence, (b, n, ...); and per row of the batch those of its question
            tokens, (q or heads, n) attention and (q, d) states.
        """
        places: dict[str, Tensor] = {} if self._output is None else {"attention_output": self._output.to(states.device)}
        rows: list[dict[str, Tensor]] = [{} for _ in range(len(states))]
        if self._probe is not None and self._probe.attention is not None:
            attention = self._probe.attention[:, :, -states.shape[1] :].to(states.device)
            places["last_attention"] = attention[:, -1]
            if "text_attention" in needs:
                for row, count in enumerate(self._asked(columns, valid).sum(1).tolist()):
                    rows[row]["text_attention"] = attention[row, attention.shape[1] - count :]
            if self._probe.by_head is not None:
                for row, heads in enumerate(self._probe.by_head[:, :, -states.shape[1] :].to(states.device)):
                    rows[row]["head_attention"] = heads
        if "question_states" in needs:
            for row, asked in enumerate(self._asked(columns, valid).to(states.device)):
                rows[row]["question_states"] = states[row, asked]
        return places, rows

    def clear(self) -> float:
        """Forget all readings, and leave nothing in the model. Returns the seconds that reading attention took."""
        spent = 0.0
        if self._probe is not None:
            self._probe.detach()
            spent = self._probe.seconds
        self._probe, self._output = None, None
        return spent

    def _asked(self, columns: Tensor, valid: Tensor) -> Tensor:
        return self._question.gather(1, columns.clamp(min=0)) & valid

    def _place(
        self, index: int, needs: frozenset[str], columns: Tensor, valid: Tensor, device: torch.device, ahead: bool = False
    ) -> AttentionProbe:
        """A probe for the query rows of the last token alone, or of all question tokens, shorter rows filled up in front."""
        found = [row.nonzero().squeeze(1) for row in self._asked(columns, valid)]
        width = max(map(len, found)) if needs & {"text_attention", "head_attention"} else 1
        rows = torch.stack([torch.cat([row[:1].expand(max(0, width - len(row))), row[-width:]]) for row in found])
        counts = torch.tensor([[len(row)] for row in found])
        shares = (torch.arange(width) >= width - counts) / counts if "head_attention" in needs else None
        return AttentionProbe(self._family.attention(self._layers[index]), rows.to(device), shares, ahead=ahead)


class _Glance:
    """Stands in for a cache: shows the earlier keys to one attention call and stores nothing."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        layer = self._cache.layers[layer_idx] if layer_idx < len(self._cache.layers) else None
        return (torch.cat([layer.keys, key], dim=2) if layer is not None and physical_length(layer) else key), value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)
