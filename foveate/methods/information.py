"""Information contribution of each visual token: how much of the singular spectrum its row carries."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from foveate.errors import InputError

__all__ = ["information_contribution"]

RANK = 64
"""Directions that the fast method resolves one by one; it estimates the rest."""
PASSES = 2
"""Power iterations of the fast method. More than two gain little, because the unresolved rest dominates the error."""
PROBES = 32
"""Random vectors that measure the spread of the unresolved spectrum. The result is one number, so few are enough."""


def information_contribution(states: Tensor, method: Literal["exact", "fast"] = "exact") -> Tensor:
    """Information contribution score of each token: sum over k of |U[i, k]| S[k], with states = U S V^T.

    From TokenCarve, https://arxiv.org/abs/2503.10501, section 3. Equal to the L1 norm of each row of `states @ V`.

    Args:
        states: (n, d) or (b, n, d), hidden states of the n tokens of one or b images, any floating dtype.
        method: "exact" takes an eigendecomposition of the smaller Gram matrix in float64. "fast" resolves the 64
            strongest directions by subspace iteration and estimates the rest from what remains of each row; it needs
            matrix products and one 64 x 64 eigendecomposition.

    Returns:
        (n,) or (b, n), float32. Tokens that are equal up to rounding noise get equal scores: exact scores are rounded
        from float64, fast ones to 16 significant bits.

    Raises:
        ValueError: `method` is unknown, or `states` is empty, not floating, or has another number of dimensions.
        InputError: `states` contains NaN or infinity (also a ValueError).
    """
    if states.ndim not in (2, 3) or not states.is_floating_point() or states.numel() == 0:
        raise ValueError(
            f"states must be a floating tensor of shape (n, d) or (b, n, d), none of them 0, not {tuple(states.shape)} {states.dtype}"
        )
    if method not in ("exact", "fast"):
        raise ValueError(f"information method {method!r} is not known; choose 'exact' or 'fast'")
    batch = states if states.ndim == 3 else states[None]
    # Autocast would turn the float32 products into bfloat16 ones.
    with torch.no_grad(), torch.autocast(states.device.type, enabled=False):
        if method == "exact":
            scores = _exact(batch)
        else:
            # A CPU gains nothing from a batch and loses its caches; a GPU saves launches.
            scores = torch.cat([_fast(part) for part in batch.split(1 if states.device.type == "cpu" else len(batch))])
    return scores if states.ndim == 3 else scores[0]


def _exact(states: Tensor) -> Tensor:
    """Scores (b, n) from the smaller Gram matrix."""
    tall = states.shape[1] > states.shape[2]
    # Float64 copies are made image by image, so that they are not all in memory at once.
    doubles = (image.double() for image in states)
    gram = torch.stack([image.mT @ image if tall else image @ image.mT for image in doubles])
    _check_finite(gram.diagonal(dim1=-2, dim2=-1).sum(-1))
    values, vectors = torch.linalg.eigh(gram)
    if tall:
        return torch.stack([(image.double() @ v).abs().sum(-1) for image, v in zip(states, vectors, strict=True)]).float()
    # Eigenvalues below the rounding error of the largest are noise, which their square roots would hide.
    noise = values.amax(-1, keepdim=True) * (values.shape[-1] * torch.finfo(values.dtype).eps)
    singular = torch.where(values > noise, values, 0).sqrt()
    scores: Tensor = vectors.abs() @ singular.unsqueeze(-1)
    return scores.squeeze(-1).float()


def _fast(states: Tensor) -> Tensor:
    """Scores (b, n) from the strongest directions and an estimate of the rest."""
    states = states.float()
    n, d = states.shape[1:]
    full = min(n, d)
    rank = min(RANK, full)
    basis = _orthonormal(states @ _draw(d, rank, states.device))
    for _ in range(PASSES):
        basis = _orthonormal(states @ (basis.mT @ states).mT)
    # Once is not enough if the columns above were nearly parallel.
    basis = _orthonormal(basis)
    rows = basis.mT @ states
    doubles = rows.double()
    gram = doubles @ doubles.mT
    _check_finite(gram.diagonal(dim1=-2, dim2=-1).sum(-1))
    values, rotation = torch.linalg.eigh(gram)
    resolved = (basis.double() @ rotation).abs() @ values.clamp(min=0).sqrt().unsqueeze(-1)
    scores = resolved.squeeze(-1)
    if rank < full:
        scores = scores + _rest(torch.baddbmm(states, basis, rows, alpha=-1), full - rank)
    return _sixteen_bits(scores)


def _rest(residual: Tensor, directions: int) -> Tensor:
    """Estimated scores (b, n) of what remains of each row, `residual` (b, n, d), with that many unresolved directions.

    A row of energy e whose coordinates along the unresolved directions are Gaussian, with variances proportional to the
    squared singular values s^2, has an expected L1 norm of sqrt(2 e / pi) * sum(s) / sqrt(sum(s^2)). That last ratio
    follows from the mean and the variance of s^2, which traces give without a decomposition, if s^2 is gamma-distributed.
    """
    length = torch.linalg.vector_norm(residual, dim=-1).double()
    mean = (length.square().sum(-1) / directions).clamp(min=torch.finfo(torch.float64).tiny ** 0.25)
    probes = _draw(residual.shape[1], PROBES, residual.device)
    fourth = (residual @ (probes.mT @ residual).mT).double().square().sum((-1, -2)) / (PROBES * directions)
    # A spectrum of m values cannot spread wider than m - 1; a flat one has no spread at all.
    spread = (fourth / mean.square() - 1).clamp(1e-6, max(directions - 1, 1e-6))
    shape = 1 / spread
    ratio = torch.exp(torch.lgamma(shape + 0.5) - torch.lgamma(shape)) / shape.sqrt() * math.sqrt(directions)
    return math.sqrt(2 / math.pi) * ratio.unsqueeze(-1) * length


def _orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal basis (b, n, r) of the space of the columns, from a Cholesky factor: two products and no loop over columns."""
    columns = columns.double()
    gram = columns.mT @ columns
    # The shift keeps a rank-deficient Gram matrix factorable; directions without energy then become short, not NaN.
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal += 1e-13 * diagonal.sum(-1, keepdim=True) + 1e-100
    factor = torch.linalg.cholesky_ex(gram).L
    basis: Tensor = torch.linalg.solve_triangular(factor.mT, columns, upper=True, left=False)
    return basis.float()


@lru_cache(maxsize=32)
def _draw(rows: int, columns: int, device: torch.device) -> Tensor:
    """The same standard normal numbers (rows, columns) at every call and on every device, without touching the global random state."""
    return torch.randn(rows, columns, generator=torch.Generator("cpu").manual_seed(0)).to(device)


def _sixteen_bits(scores: Tensor) -> Tensor:
    """Scores in float32, rounded so that batch sizes and kernels, which differ in the last bits, give the same ranking."""
    mantissa, exponent = torch.frexp(scores)
    return torch.ldexp((mantissa * 2**16).round() / 2**16, exponent).float()


def _check_finite(traces: Tensor) -> None:
    """Refuse images, one trace each, whose states are not finite, because NaN cannot be ranked."""
    if not bool(traces.isfinite().all()):
        raise InputError(
            "the hidden states of an image contain NaN or infinity, so their information cannot be ranked; "
            "check the model's dtype (float16 overflows at values that bfloat16 can represent)"
        )
