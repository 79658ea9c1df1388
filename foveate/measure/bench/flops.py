"""Floating-point operations by formula, and the attention kernels that ran, both from the operators of a real run.

Products are counted: a matrix product of (m, k) and (k, n) has 2 m n k operations; attention of q queries over k keys with heads
of size d has 4 q k d per head, including, as in torch's own counter, the half that a causal mask hides. A Hermitian eigendecomposition of
order n counts as 9 n^3, a Cholesky factor as n^3 / 3, a triangular solve of order n for m columns as n^2 m. Norms, activations,
softmax and sorting are not counted.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["OperationCounter"]

_ATEN = torch.ops.aten


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Of shapes (b, heads, n, size). Every query head works, however many of them share a head of keys, so those are not looked at."""
    batch, heads, queries, size = query
    return 2 * int(batch) * int(heads) * int(queries) * int(key[2]) * (int(size) + int(value[3]))


def _attention_of_rows(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """Of shapes (b, n, heads, size); packed samples are (all n, heads, size) and count as one, which is the most that they can be."""
    *batch, queries, heads, size = query
    return 2 * math.prod(batch) * int(heads) * int(queries) * int(key[-3]) * (int(size) + int(value[-1]))


def _eigen(shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 9 * math.prod(shape[:-2]) * int(shape[-1]) ** 3


def _cholesky(shape: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return math.prod(shape[:-2]) * int(shape[-1]) ** 3 // 3


def _solve(matrix: Any, other: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return math.prod(other) * int(matrix[-1])


_BY_HEADS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
"""What `scaled_dot_product_attention` calls. torch's own formulas up to 2.11 refuse fewer heads of keys than of queries."""
_BY_ROWS = ("_flash_attention_forward", "_efficient_attention_forward", "_cudnn_attention_forward")
"""What the operators above call, or a program in their place."""

_FORMULAS = {
    **{getattr(_ATEN, name): _attention for name in _BY_HEADS if hasattr(_ATEN, name)},
    **{getattr(_ATEN, name): _attention_of_rows for name in _BY_ROWS if hasattr(_ATEN, name)},
    _ATEN._linalg_eigh: _eigen,
    _ATEN.linalg_cholesky_ex: _cholesky,
    _ATEN.linalg_solve_triangular: _solve,
}


class OperationCounter(FlopCounterMode):
    """A context manager that counts what runs inside it."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=_FORMULAS)

    @property
    def total(self) -> int:
        """Operations so far."""
        return int(self.get_total_flops())

    @property
    def kernels(self) -> tuple[str, ...]:
        """The fused attention kernels that ran, as torch names them; empty if attention ran as matrix products."""
        names = (str(operator).removeprefix("aten.") for operator in self.get_flop_counts().get("Global", {}))
        return tuple(sorted(name for name in names if "attention" in name))
