"""Operations of the fused attention operators, which a CPU cannot run but whose shapes it can follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.measure.bench import flops
from foveate.measure.bench.flops import OperationCounter

BATCH, HEADS, KEY_HEADS, QUERIES, KEYS, SIZE = 2, 8, 2, 10, 12, 16
EXPECTED = 4 * BATCH * HEADS * QUERIES * KEYS * SIZE
ATEN = torch.ops.aten
CALLS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "_scaled_dot_product_flash_attention": lambda q, k: ATEN._scaled_dot_product_flash_attention(q, k, k),
    "_scaled_dot_product_efficient_attention": lambda q, k: ATEN._scaled_dot_product_efficient_attention(q, k, k, None, False),
    "_scaled_dot_product_cudnn_attention": lambda q, k: ATEN._scaled_dot_product_cudnn_attention(q, k, k, None, False),
    "_flash_attention_forward": lambda q, k: ATEN._flash_attention_forward(
        q.transpose(1, 2), *[k.transpose(1, 2)] * 2, None, None, QUERIES, KEYS, 0.0, False, False
    ),
    "_efficient_attention_forward": lambda q, k: ATEN._efficient_attention_forward(
        q.transpose(1, 2), *[k.transpose(1, 2)] * 2, None, None, None, QUERIES, KEYS, 0.0, 0
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_grouped_queries_are_counted_in_every_fused_attention(name: str) -> None:
    query = torch.empty(BATCH, HEADS, QUERIES, SIZE, device="meta", dtype=torch.bfloat16)
    key = torch.empty(BATCH, KEY_HEADS, KEYS, SIZE, device="meta", dtype=torch.bfloat16)
    with OperationCounter() as counter:
        CALLS[name](query, key)
    assert counter.total == EXPECTED
    assert counter.kernels == (name,)


def test_values_may_be_wider_than_keys() -> None:
    query, key, value = (BATCH, HEADS, QUERIES, 16), (BATCH, KEY_HEADS, KEYS, 16), (BATCH, KEY_HEADS, KEYS, 24)
    expected = 2 * BATCH * HEADS * QUERIES * KEYS * (16 + 24)
    assert flops._attention(query, key, value) == expected
    rows = [tuple(shape[i] for i in (0, 2, 1, 3)) for shape in (query, key, value)]
    assert flops._attention_of_rows(*rows) == expected


def test_packed_samples_count_as_one() -> None:
    assert flops._attention_of_rows((QUERIES, HEADS, SIZE), *[(KEYS, KEY_HEADS, SIZE)] * 2) == EXPECTED // BATCH


@pytest.mark.gpu
@pytest.mark.parametrize("key_heads", [KEY_HEADS, HEADS])
@pytest.mark.parametrize("name", ["flash", "efficient", "cudnn", "math"])
def test_a_gpu_counts_the_same_whichever_kernel_runs(name: str, key_heads: int) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}
    query = torch.randn(BATCH, HEADS, 64, 64, device="cuda", dtype=torch.bfloat16)
    key = torch.randn(BATCH, key_heads, 64, 64, device="cuda", dtype=torch.bfloat16)
    try:
        with sdpa_kernel(getattr(SDPBackend, backends[name])), OperationCounter() as counter:
            torch.nn.functional.scaled_dot_product_attention(query, key, key, enable_gqa=key_heads != HEADS)
    except RuntimeError as error:
        pytest.skip(f"this card or build has no such kernel: {error!s:.100}")
    assert counter.total == 4 * BATCH * HEADS * 64 * 64 * 64
