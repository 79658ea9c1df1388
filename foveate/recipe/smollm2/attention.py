"""Attention of packed questions in two fused calls: among what they share, and of the questions to it and to themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

_ALIGNED = 16  # columns of a mask's storage, which fused kernels want to be a multiple of this
_CLOSE = 0.03  # largest difference of gradients between two kernels, as a share of their norm


@dataclass(frozen=True)
class Rotation:
    """Rotary embeddings: cosines and sines (b, 1, s, head size)."""

    cosines: Tensor
    sines: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """Rotate queries or keys (b, heads, s, head size)."""
        first, second = states.chunk(2, dim=-1)
        return torch.addcmul(states * self.cosines, torch.cat([-second, first], dim=-1), self.sines)

    def at(self, index: Tensor) -> Rotation:
        """The rotations of some columns (b, k)."""
        wide = index[:, None, :, None].expand(-1, -1, -1, self.cosines.shape[-1])
        return Rotation(self.cosines.gather(2, wide), self.sines.gather(2, wide))


class Masks:
    """What the tokens of a strip may attend to: everything before the strip, and their own question up to themselves.

    Args:
        segments: (b, t) which question a token belongs to.
        shared: tokens before the strip.
        dtype: of the queries.
    """

    def __init__(self, segments: Tensor, shared: int, dtype: torch.dtype) -> None:
        batch, strip = segments.shape
        length = shared + strip
        own = (segments[:, :, None] == segments[:, None, :]) & torch.ones(strip, strip, dtype=torch.bool, device=segments.device).tril()
        wide = torch.zeros(batch, 1, strip, -(-length // _ALIGNED) * _ALIGNED, dtype=dtype, device=segments.device)
        wide[:, 0, :, shared:length] = torch.where(own, 0.0, float("-inf")).to(dtype)
        self.shared, self.strip = shared, wide[..., :length]


def grouped(states: Tensor, groups: int) -> Tensor:
    """Repeat keys or values (b, heads, s, head size) for the query heads that use them."""
    if groups == 1:
        return states
    return states[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


class Attend:
    """Attention, by whichever fused kernel for masks is fastest here; see `choose`."""

    def __init__(self) -> None:
        self.backend: SDPBackend | None = None

    def causal(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention of a whole sequence."""
        with _fused(query):
            return functional.scaled_dot_product_attention(query, key, value, is_causal=True)

    def over(self, masks: Masks) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """Attention over what is shared and over a strip."""

        def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            m = masks.shared
            among = self.causal(query[:, :, :m], key[:, :, :m], value[:, :, :m])
            with self._kernel():
                strip = functional.scaled_dot_product_attention(query[:, :, m:], key, value, attn_mask=masks.strip)
            return torch.cat([among, strip], dim=2)

        return mix

    def _kernel(self) -> Any:
        return nullcontext() if self.backend is None else sdpa_kernel([self.backend, SDPBackend.MATH])

    def choose(self, several: Sequence[Masks], heads: int, size: int, dtype: torch.dtype) -> dict[str, float]:
        """Take the fastest kernel whose output and gradients agree with the memory-efficient one's, for all masks; milliseconds by name.

        A kernel that fails is left out. Without a GPU nothing is changed.
        """
        if several[0].strip.device.type != "cuda":
            return {}
        times = dict.fromkeys((SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION), 0.0)
        for masks in several:
            batch, _, strip, length = masks.strip.shape
            given = [torch.randn(batch, heads, rows, size, device="cuda", dtype=dtype) for rows in (strip, length, length, strip)]
            wanted: list[Tensor] | None = None
            for backend in list(times):
                try:
                    found, spent = _timed(backend, masks.strip, given)
                except RuntimeError:
                    del times[backend]
                    continue
                wanted = found if wanted is None else wanted
                if all(bool((a - b).norm() <= _CLOSE * b.norm()) for a, b in zip(found, wanted, strict=True)):
                    times[backend] += spent
                else:
                    del times[backend]
        if times:
            self.backend = min(times, key=lambda backend: times[backend])
        return {backend.name.lower(): round(spent, 3) for backend, spent in times.items()}


def _fused(query: Tensor) -> Any:
    """The kernels for causal attention that are proven in training; a CPU has one."""
    if query.device.type != "cuda":
        return nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _timed(backend: SDPBackend, mask: Tensor, given: list[Tensor]) -> tuple[list[Tensor], float]:
    """Output and gradients by one kernel, and milliseconds of a forward and backward pass."""
    query, key, value = out = [tensor.clone().requires_grad_() for tensor in given[:3]]
    result = torch.empty(0)
    for attempt in range(4):
        for tensor in out:
            tensor.grad = None
        if attempt == 1:
            torch.cuda.synchronize()
            begun = time.perf_counter()
        with sdpa_kernel([backend]):
            result = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        result.backward(given[3])
    torch.cuda.synchronize()
    spent = (time.perf_counter() - begun) / 3 * 1000
    return [result.detach().float(), *(tensor.grad.float() for tensor in out if tensor.grad is not None)], spent
