"""Attention of chosen query rows, while the model keeps its own attention kernel.

One attention module gets a shallow copy of its configuration that names a function registered with transformers. That
function sees queries and keys after the rotary embedding, computes the few rows that are wanted, and then calls the
model's own implementation. No attention map is ever materialised, and the mask is still made for the model's own kernel.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from foveate.devices import upload
from foveate.engine.clock import Spans

__all__ = ["AttentionProbe", "RowsRead", "Probe", "ReceivedProbe", "attention_maps", "attention_rows", "received_attention"]

_NAME = "foveate_probe"
_BLOCK = 2**25
"""Logits that are held at once."""


_LOCK = threading.Lock()
"""Held while a module's configuration changes hands."""


class Probe:
    """Reads queries and keys of one attention module until it is detached. Subclasses say what to keep of them.

    It reads the calls of the thread that made it. Other threads may run the same module meanwhile, under probes of their own or none.

    Args:
        module: a transformers attention module, one that looks its kernel up by `module.config`.

    Attributes:
        spent: time that reading took.
    """

    def __init__(self, module: nn.Module) -> None:
        self.spent = Spans()
        self._module: Any = module
        self._thread = threading.get_ident()
        with _LOCK:
            self._original = _own_config(self._module)
            config: Any = self._module.config
            if config is self._original:
                config = copy.copy(self._original)
                config._attn_implementation_internal = _NAME
                config.foveate_original, config.foveate_probes = self._original, {}
                self._module.config = config
            config.foveate_probes[self._thread] = self

    def detach(self) -> None:
        """Stop reading. The last probe to stop restores the module's own configuration. Safe to call twice."""
        with _LOCK:
            probes = getattr(self._module.config, "foveate_probes", {})
            if probes.get(self._thread) is self:
                del probes[self._thread]
                if not probes:
                    self._module.config = self._original

    @property
    def implementation(self) -> str:
        """The model's own attention kernel."""
        name: str = self._original._attn_implementation
        return name

    def attend(
        self, implementation: Callable[..., Any], module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
    ) -> tuple[Tensor, Tensor | None]:
        """One call of the module: read it, and let the model's own implementation compute the output."""
        self.see(query, key, mask, **options)
        output: tuple[Tensor, Tensor | None] = implementation(module, query, key, value, mask, **options)
        return output

    def see(self, query: Tensor, key: Tensor, mask: Tensor | None, **options: Any) -> None:
        """One call of the module: read it, on the clock."""
        with self.spent.measure(query.device), torch.no_grad():
            self.read(query, key, mask, **options)

    def read(self, query: Tensor, key: Tensor, mask: Tensor | None, **options: Any) -> None:
        """What a subclass wants of queries (b, heads, q, d) and keys (b, key heads, k, d)."""
        raise NotImplementedError


class RowsRead(Exception):  # noqa: N818 - it carries control, not an error
    """Ends a look-ahead once the rows are read, before the attention itself is computed."""


class AttentionProbe(Probe):
    """Computes attention rows in the next call of one attention module, and takes its queries and keys, then takes itself out.

    Args:
        module: see `Probe`.
        rows: (b, r) query rows wanted per batch row, counted within that call's queries; `None` if queries and keys alone are wanted.
        shares: (b, r) weight of each row in `by_head`; `None` if that is not wanted.
        ahead: raise `RowsRead` instead of computing the attention, because the call was made for what is read alone.
        keys: take the keys.
        queries: take the queries.

    Attributes:
        keys: (b, key heads, keys, c), as the module has them, not a copy; `None` if they are not wanted.
        queries: (b, heads, queries, c), likewise.
        attention: (b, r, keys) in at least float32, softmax over the full row and mean over heads; `None` until the module has run.
        by_head: (b, heads, keys), the weighted sum of the same rows, head by head.
    """

    def __init__(
        self,
        module: nn.Module,
        rows: Tensor | None,
        shares: Tensor | None = None,
        *,
        ahead: bool = False,
        keys: bool = False,
        queries: bool = False,
    ) -> None:
        super().__init__(module)
        self.rows, self.shares, self.ahead = rows, shares, ahead
        self._wants_keys, self.wants_queries = keys, queries
        self.keys: Tensor | None = None
        self.queries: Tensor | None = None
        self.attention: Tensor | None = None
        self.by_head: Tensor | None = None

    def read(self, query: Tensor, key: Tensor, mask: Tensor | None, **options: Any) -> None:
        """See `Probe.read`."""
        self.detach()
        if self._wants_keys:
            self.keys = key
        if self.wants_queries:
            self.queries = query
        if self.rows is not None:
            # Where layers live on different devices, the rows were chosen on the one before.
            rows, shares = upload(self.rows, query.device), None if self.shares is None else upload(self.shares, query.device)
            self.attention, self.by_head = _read_rows(query, key, rows, shares, mask, **options)
        if self.ahead:
            raise RowsRead


class ReceivedProbe(Probe):
    """Computes the attention that each token of a vision tower receives, in every call until it is detached.

    Args:
        module: see `Probe`.
        class_token: the sequences begin with a class token: its attention counts, and the result omits it.

    Attributes:
        received: per call (b, n) in at least float32: the class token's row, or the mean over all rows; mean over heads.
    """

    def __init__(self, module: nn.Module, class_token: bool) -> None:
        super().__init__(module)
        self.class_token = class_token
        self.received: list[Tensor] = []

    def read(self, query: Tensor, key: Tensor, mask: Tensor | None, **options: Any) -> None:
        """See `Probe.read`."""
        if self.class_token:
            row = torch.zeros(query.shape[0], 1, dtype=torch.long, device=query.device)
            self.received.append(attention_rows(query, key, row, mask, causal=False, **options)[:, 0, 1:])
        else:
            self.received.append(_received_by_sequence(query, key, mask, **options))


def _received_by_sequence(query: Tensor, key: Tensor, mask: Tensor | None, cu_seq_lens_q: Tensor | None = None, **options: Any) -> Tensor:
    """As `received_attention`; under flash attention several packed sequences may come with their bounds instead of a mask."""
    if mask is not None or cu_seq_lens_q is None:
        return received_attention(query, key, mask, **options)
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(query.split(lengths, dim=2), key.split(lengths, dim=2), strict=True)
    return torch.cat([received_attention(*part, **options) for part in parts], dim=1)


def attention_rows(query: Tensor, key: Tensor, rows: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """Softmax attention of a few query rows to all keys, mean over heads. Many rows are computed block by block.

    Args:
        query: (b, heads, q, d), after the rotary embedding.
        key: (b, key heads, k, d), k >= q; the last q keys belong to the queries.
        rows: (b, r) wanted query rows.
        mask: `None` (causal), (b, k) key padding (true or 1 = visible; causality is applied as well), or (b, 1 or heads,
            q, >= k), boolean (true = visible) or additive.

    Keyword args (others that a model gives its kernel are ignored):
        scaling: factor of the logits; 1 / sqrt(d) by default.
        softcap: limit of the logits as in Gemma 2.
        sliding_window: how many keys back a query sees; used only where the mask is not (…, q, k), which includes it.
        causal: without a 4-D mask a query sees no later key.

    Returns:
        (b, r, k) in at least float32.
    """
    return _read_rows(query, key, rows, None, mask, **options)[0]


def received_attention(query: Tensor, key: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """Mean over all query rows and heads of bidirectional attention, without ever holding a full map.

    Args:
        query: (b, heads, n, d).
        key: (b, key heads, n, d).
        mask: as in `attention_rows`.

    Returns:
        (b, n) in at least float32.
    """
    queries = query.shape[2]
    rows = torch.arange(queries, device=query.device).expand(query.shape[0], -1)
    block = max(1, _BLOCK // (query.shape[0] * query.shape[1] * key.shape[2]))
    options = {**options, "causal": False}
    return sum(attention_rows(query, key, part, mask, **options).sum(1) for part in rows.split(block, dim=1)) / queries  # type: ignore[return-value]


def _read_rows(
    query: Tensor, key: Tensor, rows: Tensor, shares: Tensor | None, mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Rows (b, r, k), mean over heads, as in `attention_rows`; and their sum weighted by `shares` (b, r), head by head (b, heads, k)."""
    block = max(1, _BLOCK // (query.shape[0] * query.shape[1] * key.shape[2]))
    means: list[Tensor] = []
    by_head: Tensor | None = None
    for first in range(0, rows.shape[1], block):
        part = slice(first, first + block)
        maps = attention_maps(query, key, rows[:, part], mask, **options)
        means.append(maps.mean(1))
        if shares is not None:
            own = torch.einsum("bhrk,br->bhk", maps, shares[:, part].to(maps.dtype))
            by_head = own if by_head is None else by_head + own
    return torch.cat(means, dim=1), by_head


def attention_maps(
    query: Tensor,
    key: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    causal: bool = True,
    **_: Any,
) -> Tensor:
    """Softmax attention of a few query rows to all keys, head by head; arguments as in `attention_rows`.

    Returns:
        (b, heads, r, k) in at least float32; NaN in rows that see no key.
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
        visible = _visible(rows, queries, keys, mask, sliding_window, causal)
        logits = logits.masked_fill(~visible[:, None], float("-inf"))
    return logits.softmax(-1)


def _visible(rows: Tensor, queries: int, keys: int, padding: Tensor | None, window: int | None, causal: bool) -> Tensor:
    position = (rows + keys - queries)[:, :, None]
    column = torch.arange(keys, device=rows.device)
    visible = column <= position if causal else torch.ones_like(column <= position)
    if window is not None:
        visible = visible & (column > position - window)
    if padding is not None:
        visible = visible & padding[:, None, -keys:].bool()
    return visible


def _own_config(module: Any) -> Any:
    """A module's own configuration, whether probes read it or not."""
    return getattr(module.config, "foveate_original", module.config)


def _probe_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    # Another thread's probe may have left since this call looked its kernel up.
    probe: Probe | None = getattr(module.config, "foveate_probes", {}).get(threading.get_ident())
    eager = sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
    implementation = ALL_ATTENTION_FUNCTIONS.get_interface(_own_config(module)._attn_implementation, eager)
    if probe is None:
        output: tuple[Tensor, Tensor | None] = implementation(module, query, key, value, attention_mask, **options)
        return output
    return probe.attend(implementation, module, query, key, value, attention_mask, **options)


AttentionInterface.register(_NAME, _probe_attention)
