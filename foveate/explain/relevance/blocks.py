"""The backward pass of one layer's attention, block by block: relevance and gradients without ever storing a map.

A row of relevance r over the positions becomes r + r A, where A is the mean over heads of the positive part of P * dP, P the
attention and dP = dO v^T its gradient, dO being the gradient of the attention's output (Chefer et al., 2021,
https://arxiv.org/abs/2103.15679). P is recomputed from queries and keys, a few query rows at a time. The same block gives the gradients
of queries, keys and values, so the attention needs no other backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from foveate.engine.signals.attention import attention_maps

__all__ = ["AttentionInputs", "InputGradients", "attention_backward", "attention_output", "attention_relevance"]

_BLOCK = {"cpu": 2**18}
"""Attention weights per block unless the caller sets a block size: on a CPU 1 MiB, which fits in its cache."""

_LARGE_BLOCK = 2**24
"""The same for accelerators, which need more work at once."""

_FEWEST = 32
"""Fewest query rows per block, however long the prompt: fewer make inefficient matrix products."""


@dataclass(frozen=True)
class AttentionInputs:
    """The arguments of one attention module's call.

    Attributes:
        query: (b, heads, n, d), after the rotary embedding.
        key: (b, key heads, n, d).
        value: (b, key heads, n, e).
        mask: `None` (causal), (b, n) padding, or (b, 1 or heads, n, >= n), boolean or additive.
        options: further arguments that the model passes to its kernel.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        """Query heads per key head."""
        return self.query.shape[1] // self.key.shape[1]

    @property
    def scaling(self) -> float:
        """The scale factor of the logits."""
        given = self.options.get("scaling")
        return float(self.query.shape[-1] ** -0.5 if given is None else given)

    @property
    def _has_map(self) -> bool:
        """Whether the mask says for each query which keys it sees."""
        return self.mask is not None and self.mask.ndim == 4

    def exact(self) -> AttentionInputs:
        """The same without a graph and in at least float32."""
        kind = torch.promote_types(self.query.dtype, torch.float32)
        query, key, value = (tensor.detach().to(kind) for tensor in (self.query, self.key, self.value))
        return AttentionInputs(query, key, value, self.mask, self.options)

    def blocks(self, size: int | None) -> Iterator[slice]:
        """The blocks of query rows, from the first."""
        batch, heads, rows = self.query.shape[:3]
        size = size or max(_FEWEST, _BLOCK.get(self.query.device.type, _LARGE_BLOCK) // (batch * heads * rows))
        return (slice(first, min(first + size, rows)) for first in range(0, rows, size))

    def part(self, rows: slice) -> AttentionInputs:
        """The same for a block of queries, and the keys that its rows may see."""
        ahead = _looks_ahead(self.mask, rows) if self._has_map else not self.options.get("causal", True)
        seen = self.key.shape[2] if ahead else rows.stop
        mask = self.mask
        if mask is not None:
            mask = mask[..., rows, :seen] if self._has_map else mask[:, -self.key.shape[2] :][:, :seen]
        return AttentionInputs(self.query[:, :, rows], self.key[:, :, :seen], self.value[:, :, :seen], mask, self.options)

    def maps(self) -> Tensor:
        """(b, heads, rows, keys), softmax over the keys; 0 in rows that see none."""
        rows = torch.arange(self.query.shape[2], device=self.query.device).expand(self.query.shape[0], -1)
        maps = attention_maps(self.query, self.key, rows, self.mask, **self.options)
        return maps if self.mask is None else maps.nan_to_num_(0.0)


@dataclass(frozen=True)
class InputGradients:
    """Of one target with respect to one attention's queries, keys and values; shapes as in `AttentionInputs`."""

    query: Tensor
    key: Tensor
    value: Tensor


def attention_relevance(attended: AttentionInputs, relevance: Tensor, *, block: int | None = None) -> Tensor:
    """Relevance before a layer from that after it, by attention alone: r + r E[P].

    Args:
        attended: the layer's attention.
        relevance: (t, b, n), one row per target.
        block: query rows per block.

    Returns:
        (t, b, n)
    """
    exact, result = attended.exact(), relevance.clone()
    for rows in attended.blocks(block):
        if bool(relevance[:, :, rows].any()):
            maps = exact.part(rows).maps().mean(1)
            result[:, :, : maps.shape[-1]] += torch.einsum("tbr,brk->tbk", relevance[:, :, rows], maps)
    return result


def attention_backward(
    attended: AttentionInputs, relevance: Tensor, outputs: Sequence[Tensor], *, inputs: bool = True, block: int | None = None
) -> tuple[Tensor, list[InputGradients]]:
    """Relevance before a layer from that after it, r + r E[(P * dP)^+], and the gradients of the attention's inputs.

    Args:
        attended: the layer's attention.
        relevance: (t, b, n), one row per target.
        outputs: per target (b, n, heads, e), the gradient of the attention's output.
        inputs: whether to compute the gradients of queries, keys and values.
        block: query rows per block.

    Returns:
        (t, b, n), and the gradients per target; none without `inputs`.
    """
    exact, result = attended.exact(), relevance.clone()
    found = [InputGradients(*map(torch.zeros_like, (exact.query, exact.key, exact.value))) for _ in outputs] if inputs else []
    for rows in attended.blocks(block):
        part, maps = exact.part(rows), None
        for target, output in enumerate(outputs):
            gradient = output[:, rows].transpose(1, 2).to(exact.value.dtype)
            if not bool(gradient.any()):  # rows after the target, and padding
                continue
            maps = part.maps() if maps is None else maps
            weighted = _by_key_head(gradient, part) @ part.value.transpose(2, 3)
            weighted = weighted.view_as(maps).mul_(maps)
            positive = weighted.clamp(min=0).mean(1)
            result[target, :, : maps.shape[-1]] += torch.einsum("br,brk->bk", relevance[target, :, rows], positive)
            if inputs:
                _accumulate(found[target], rows, part, maps, weighted, gradient)
    return result, found


def attention_output(attended: AttentionInputs, rows: Tensor) -> Tensor:
    """The attention's output at a few rows, by the formula that relevance assumes.

    Args:
        attended: the layer's attention.
        rows: (b, r) query rows.

    Returns:
        (b, r, heads, e) in at least float32
    """
    exact = attended.exact()
    maps = attention_maps(exact.query, exact.key, rows, exact.mask, **exact.options).nan_to_num_(0.0)
    return (_by_key_head(maps, exact) @ exact.value).unflatten(2, (exact.groups, -1)).flatten(1, 2).transpose(1, 2)


def _accumulate(found: InputGradients, rows: slice, part: AttentionInputs, maps: Tensor, weighted: Tensor, gradient: Tensor) -> None:
    """Add one block to the gradients; `weighted` is P * dP (b, heads, rows, keys), and is overwritten."""
    seen = maps.shape[-1]
    logits = weighted.addcmul_(maps, weighted.sum(-1, keepdim=True), value=-1)
    softcap = part.options.get("softcap")
    if softcap is not None:
        raw = (_by_key_head(part.query, part) @ part.key.transpose(2, 3)).view_as(maps) * part.scaling
        logits.mul_(1 - torch.tanh(raw / softcap).square())
    logits = _by_key_head(logits, part)
    found.query[:, :, rows] = (logits @ part.key).view_as(part.query) * part.scaling
    found.key[:, :, :seen] += logits.transpose(2, 3) @ _by_key_head(part.query, part) * part.scaling
    found.value[:, :, :seen] += _by_key_head(maps, part).transpose(2, 3) @ _by_key_head(gradient, part)


def _by_key_head(tensor: Tensor, attended: AttentionInputs) -> Tensor:
    """(b, heads, r, x) as (b, key heads, heads per key head * r, x)."""
    return tensor.unflatten(1, (attended.key.shape[1], attended.groups)).flatten(2, 3)


def _looks_ahead(mask: Any, rows: slice) -> bool:
    """Whether the mask lets a row of the block see a key after the block."""
    ahead = mask[..., rows, rows.stop :]
    return bool(ahead.any() if ahead.dtype == torch.bool else (ahead > torch.finfo(ahead.dtype).min / 2).any())
