"""Principal axes of small positive matrices, on an accelerator by matrix products alone."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["factor", "principal_axes", "product_axes"]

ITERATIONS = 16
TURN, REACH = 0.5, 1.6
"""Limits of one iteration's rotation: the 2-norm and the 1-norm of each row of its generator."""


def principal_axes(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors (b, r, r), one a column, of float64 Gram matrices (b, r, r), and the square roots of the eigenvalues (b, r).

    In no particular order. A CPU takes LAPACK's eigendecomposition; an accelerator, whose own would wait for the result,
    takes `product_axes`.
    """
    if gram.device.type != "cpu":
        return product_axes(gram)
    values, vectors = torch.linalg.eigh(gram)
    return vectors, values.clamp(min=0).sqrt()


def product_axes(gram: Tensor, iterations: int = ITERATIONS) -> tuple[Tensor, Tensor]:
    """As `principal_axes`, float32, in a fixed number of matrix products.

    A Jacobi method that turns all pairs of columns at once. With M^T M = gram, it looks for the rotation V that makes the
    columns of M V orthogonal. Each iteration takes the angle by which each pair alone would have to turn, makes these
    angles one skew-symmetric generator K, shortened so that the pairs do not overshoot together, and turns V by
    exp(K), to second order. One Newton-Schulz step then takes V back to orthogonal columns. That converges for certain
    if no singular value of V exp(K) exceeds sqrt(3); a row sum of |K| of at most 1.6 keeps them below 1.63.
    Where the diagonal of the matrix already falls, as after subspace iteration, some ten iterations are enough, and
    axes that it has not yet told apart are those whose lengths are nearly equal.
    """
    lower = factor(gram)
    # Columns instead of the Gram matrix, so that short ones keep their relative precision in float32.
    scale = torch.linalg.vector_norm(lower, dim=-1).amax(-1)
    columns = (lower.mT / scale[:, None, None]).float().contiguous()
    eye, apart = _constants(columns.shape[-1], columns.device)
    turned = columns
    rotation = eye.expand_as(columns)
    for _ in range(iterations):
        inner = turned.mT @ turned
        energy = inner.diagonal(dim1=-2, dim2=-1)
        twice = torch.atan(2 * inner / (energy.unsqueeze(-2) - energy.unsqueeze(-1) + apart))
        size = torch.linalg.vector_norm(twice, dim=-1) / TURN
        size = torch.maximum(size, torch.linalg.vector_norm(twice, ord=1, dim=-1) / REACH).clamp(min=2)
        generator = twice / torch.maximum(size.unsqueeze(-1), size.unsqueeze(-2))
        rotation = rotation @ torch.baddbmm(eye + generator, generator, generator, alpha=0.5)
        rotation = rotation @ torch.baddbmm(1.5 * eye.expand_as(rotation), rotation.mT, rotation, alpha=-0.5)
        turned = columns @ rotation
    return rotation, torch.linalg.vector_norm(turned, dim=-2) * scale[:, None].float()


def factor(gram: Tensor) -> Tensor:
    """Lower Cholesky factor (b, r, r) of float64 Gram matrices; directions without energy become short, not NaN."""
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    shifted = torch.addcmul(gram, _eye(gram.shape[-1], gram.device), (1e-13 * trace + 1e-100)[:, None, None])
    return torch.linalg.cholesky_ex(shifted).L


@lru_cache(maxsize=32)
def _eye(rank: int, device: torch.device) -> Tensor:
    return torch.eye(rank, dtype=torch.float64, device=device)


@lru_cache(maxsize=32)
def _constants(rank: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The unit matrix, and what keeps the differences of the diagonal from 0: antisymmetric, tiny, infinite on the diagonal."""
    i = torch.arange(rank, device=device)
    apart = 1e-30 * torch.sign(i[None, :] - i[:, None]).float()
    return torch.eye(rank, device=device), apart.fill_diagonal_(math.inf)
