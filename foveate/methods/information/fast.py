"""Fast scores, from the strongest directions and an estimate of the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from foveate.devices import upload
from foveate.methods.information.axes import factor, principal_axes

__all__ = ["fast_scores"]

RANK = 128
"""Directions that are resolved one by one; the rest is estimated."""
PASSES = 2
"""Power iterations. More gain little, because the unresolved rest dominates the error."""
PROBES = 32
"""Random vectors that measure the spread of the unresolved spectrum. The result is one number, so few are enough."""

Axes = Callable[[Tensor], tuple[Tensor, Tensor]]


def fast_scores(states: Sequence[Tensor], axes: Axes = principal_axes) -> tuple[list[Tensor], Tensor]:
    """Scores (n,) of images (n, d) of one width, float32, and whether the states of each are finite (b,)."""
    tokens = [len(image) for image in states]
    # Rows of zeros change nothing in the spectrum.
    batch = torch.nn.utils.rnn.pad_sequence(list(states), batch_first=True).float()
    finite = torch.linalg.vector_norm(batch, dim=(1, 2), dtype=torch.float64) < math.inf
    if finite.device.type == "cpu" and not bool(finite.all()):
        return [image.new_zeros(len(image), dtype=torch.float32) for image in states], finite
    scores = _scores(batch, tokens, axes)
    return [own[:count] for own, count in zip(scores.unbind(), tokens, strict=True)], finite


def _scores(states: Tensor, tokens: list[int], axes: Axes) -> Tensor:
    """Scores (b, n) of states (b, n, d), of which the first `tokens` rows are not padding."""
    n, d = states.shape[1:]
    rank = min(RANK, n, d)
    basis = _orthonormal(states @ _draw(d, rank, states.device))
    for _ in range(PASSES):
        basis = _orthonormal(states @ (basis.mT @ states).mT)
    rows = basis.mT @ states
    doubles = rows.double()
    rotation, lengths = axes(doubles @ doubles.mT)
    scores = ((basis.to(rotation.dtype) @ rotation).abs() @ lengths.unsqueeze(-1)).squeeze(-1).double()
    left = [min(count, d) - rank for count in tokens]
    if max(left) > 0:
        scores = scores + _rest(torch.baddbmm(states, basis, rows, alpha=-1), _numbers(left, states))
    return _sixteen_bits(scores)


def _rest(residual: Tensor, directions: float | Tensor) -> Tensor:
    """Estimated scores (b, n) of what remains of each row, `residual` (b, n, d), with that many unresolved directions.

    A row of energy e whose coordinates along the unresolved directions are Gaussian, with variances proportional to the
    squared singular values s^2, has an expected L1 norm of sqrt(2 e / pi) * sum(s) / sqrt(sum(s^2)). That last ratio
    follows from the mean and the variance of s^2, which traces give without a decomposition, if s^2 is gamma-distributed.
    """
    length = torch.linalg.vector_norm(residual, dim=-1, dtype=torch.float64)
    energy = (
        torch.linalg.vector_norm(residual, dim=(-2, -1), dtype=torch.float64).square().clamp(min=torch.finfo(torch.float64).tiny ** 0.25)
    )
    probes = _draw(residual.shape[1], PROBES, residual.device)
    seen = torch.linalg.vector_norm(residual @ (probes.mT @ residual).mT, dim=(-2, -1), dtype=torch.float64)
    # A spectrum of m values cannot spread wider than m - 1; a flat one has no spread at all.
    spread = (seen / energy).square() * (directions / PROBES) - 1
    spread = (
        torch.minimum(spread.clamp(min=1e-6), torch.clamp(directions - 1, min=1e-6))
        if isinstance(directions, Tensor)
        else spread.clamp(1e-6, max(directions - 1, 1e-6))
    )
    shape = 1 / spread
    ratio = torch.exp(torch.lgamma(shape + 0.5) - torch.lgamma(shape)) * (spread * directions).sqrt()
    return (math.sqrt(2 / math.pi) * ratio).unsqueeze(-1) * length


def _numbers(values: list[int], like: Tensor) -> float | Tensor:
    """One number if all are equal, else float64 (b,) that are made on the device, because a copy to it would wait."""
    if min(values) == max(values):
        return float(values[0])
    return torch.stack([like.new_full((), max(value, 1), dtype=torch.float64) for value in values])


def _orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal basis (b, n, r) of the space of the columns, from a Cholesky factor: two products and no loop over columns."""
    columns = columns.double()
    lower = factor(columns.mT @ columns)
    basis: Tensor = torch.linalg.solve_triangular(lower.mT, columns, upper=True, left=False)
    return basis.float()


@lru_cache(maxsize=32)
def _draw(rows: int, columns: int, device: torch.device) -> Tensor:
    """The same standard normal numbers (rows, columns) at every call and on every device, without touching the global random state."""
    return upload(torch.randn(rows, columns, generator=torch.Generator("cpu").manual_seed(0), device="cpu"), device)


def _sixteen_bits(scores: Tensor) -> Tensor:
    """Scores in float32, rounded so that batch sizes and kernels, which differ in the last bits, give the same ranking."""
    bits = scores.float().view(torch.int32)
    return ((bits + 0x80) & -0x100).view(torch.float32)
