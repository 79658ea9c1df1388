"""Principal axes of small positive matrices, on an accelerator by matrix products alone."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["factor", "principal_axes", "product_axes"]

ITERATIONS = 10
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
    Ten iterations are enough where the diagonal of the matrix already falls, as after subspace iteration. What then still
    differs from the eigenvectors are axes of nearly equal length, which have turned a little within their plane.
    """
    lower = factor(gram)
    # Columns instead of the Gram matrix, so that short ones keep their relative precision in float32.
    scale = torch.linalg.vector_norm(lower, dim=-1).amax(-1)
    columns = (lower.mT / scale[:, None, None]).float().contiguous()
    eye, apart = _constants(columns.shape[-1], columns.device)
    more_than_one = (1.5 * eye).expand_as(columns)
    turned, rotation = columns, eye.expand_as(columns)
    for _ in range(iterations):
        inner = turned.mT @ turned
        energy = inner.diagonal(dim1=-2, dim2=-1)
        angles = inner.div_(torch.add(apart, energy.unsqueeze(-2) - energy.unsqueeze(-1), alpha=0.5)).atan_()
        # Skew to the last bit, which the rounding of a product is not. These are four times the angles; the lower limit of
        # `size` and REACH below divide by it.
        angles = angles - angles.mT
        size = torch.linalg.vector_norm(angles, dim=-1).mul_(REACH / TURN)
        size = torch.maximum(size, torch.linalg.vector_norm(angles, ord=1, dim=-1)).clamp_(min=4 * REACH)
        generator = angles.div_(torch.maximum(size.unsqueeze(-1), size.unsqueeze(-2)))
        turn = torch.baddbmm(torch.add(eye, generator, alpha=REACH), generator, generator, alpha=REACH**2 / 2)
        rotation = rotation @ turn
        rotation = rotation @ torch.baddbmm(more_than_one, rotation.mT, rotation, alpha=-0.5)
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
