"""Attention of chosen query rows, while the model keeps its own attention kernel.

One attention module gets a shallow copy of its configuration that names a function registered with transformers. That
function sees queries and keys after the rotary embedding, computes the few rows that are wanted, and hands over to the
model's own implementation. No attention map is ever materialised, and the mask is still made for the model's own kernel.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from foveate.clock import seconds

__all__ = ["AttentionProbe", "attention_rows"]

_NAME = "foveate_probe"


class AttentionProbe:
    """Computes attention rows in the next call of one attention module, then takes itself out.

    Args:
        module: a transformers attention module, one that looks its kernel up by `module.config`.
        rows: (b, r) query rows wanted per batch row, counted within that call's queries.

    Attributes:
        attention: (b, r, keys) in at least float32, softmax over the full row and mean over heads; `None` until the module has run.
        seconds: time that computing the rows took.
    """

    def __init__(self, module: nn.Module, rows: Tensor) -> None:
        self.rows = rows
        self.attention: Tensor | None = None
        self.seconds = 0.0
        self._module: Any = module
        self._original = self._module.config
        config: Any = copy.copy(self._original)
        config._attn_implementation_internal = _NAME
        config.foveate_probe = self
        self._module.config = config

    def detach(self) -> None:
        """Give the module its own configuration back; safe to call twice."""
        self._module.config = self._original

    def read(self, query: Tensor, key: Tensor, mask: Tensor | None, **options: Any) -> None:
        """Compute and keep the rows."""
        start = seconds(query.device)
        with torch.no_grad():
            self.attention = attention_rows(query, key, self.rows, mask, **options)
        self.seconds = seconds(query.device) - start


def attention_rows(
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> Tensor:
    """Softmax attention of a few query rows to all keys, mean over heads.

    Args:
        query: (b, heads, q, d), after the rotary embedding.
        key: (b, key heads, k, d), k >= q; the last q keys belong to the queries.
        rows: (b, r) wanted query rows.
        mask: `None` (causal), (b, k) key padding (true or 1 = visible; causality is applied as well), or (b, 1 or heads,
            q, >= k), boolean (true = visible) or additive.
        scaling: factor of the logits; 1 / sqrt(d) by default.
        softcap: limit of the logits as in Gemma 2.
        sliding_window: how many keys back a query sees; used only where the mask is not (…, q, k), which has it in itself.

    Returns:
        (b, r, k) in at least float32.
    """
    batch, heads, queries, width = query.shape
    key_heads, keys = key.shape[1], key.shape[2]
    exact = torch.promote_types(query.dtype, torch.float32)
    picked = query.gather(2, rows[:, None, :, None].expand(-1, heads, -1, width))
    grouped = picked.to(exact).view(batch, key_heads, (heads // key_heads) * rows.shape[1], width)
    logits = (grouped @ key.to(exact).transpose(2, 3)).view(batch, heads, rows.shape[1], keys)
    logits = logits * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if mask is not None and mask.ndim == 4:
        wanted = mask[..., :keys].expand(batch, -1, -1, -1)
        wanted = wanted.gather(2, rows[:, None, :, None].expand(-1, wanted.shape[1], -1, keys))
        logits = logits.masked_fill(~wanted, float("-inf")) if wanted.dtype == torch.bool else logits + wanted
    else:
        logits = logits.masked_fill(~_visible(rows, queries, keys, mask, sliding_window)[:, None], float("-inf"))
    return logits.softmax(-1).mean(1)


def _visible(rows: Tensor, queries: int, keys: int, padding: Tensor | None, window: int | None) -> Tensor:
    position = (rows + keys - queries)[:, :, None]
    column = torch.arange(keys, device=rows.device)
    visible = column <= position
    if window is not None:
        visible = visible & (column > position - window)
    if padding is not None:
        visible = visible & padding[:, None, -keys:].bool()
    return visible


def _probe_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    probe: AttentionProbe = module.config.foveate_probe
    probe.detach()
    probe.read(query, key, attention_mask, **options)
    eager = sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
    implementation = ALL_ATTENTION_FUNCTIONS.get_interface(module.config._attn_implementation, eager)
    output: tuple[Tensor, Tensor | None] = implementation(module, query, key, value, attention_mask, **options)
    return output


AttentionInterface.register(_NAME, _probe_attention)
