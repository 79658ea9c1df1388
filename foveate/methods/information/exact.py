"""Exact scores, from a float64 eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["exact_scores"]


def exact_scores(states: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Scores (n,) of images (n, d) of one shape, float32, and whether the states of each are finite (b,)."""
    tokens, width = states[0].shape
    tall = tokens > width
    gram = torch.stack([_gram(image, tall) for image in states])
    finite = gram.diagonal(dim1=-2, dim2=-1).sum(-1).isfinite()
    if not bool(finite.all()):
        return [image.new_zeros(tokens, dtype=torch.float32) for image in states], finite
    values, vectors = _eigh(gram)
    if tall:
        return [(image.double() @ v).abs().sum(-1).float() for image, v in zip(states, vectors, strict=True)], finite
    # Eigenvalues below the rounding error of the largest are noise, which their square roots would hide.
    noise = values.amax(-1, keepdim=True) * (values.shape[-1] * torch.finfo(values.dtype).eps)
    singular = torch.where(values > noise, values, 0).sqrt()
    scores = vectors.abs() @ singular.unsqueeze(-1)
    return list(scores.squeeze(-1).float().unbind()), finite


def _gram(image: Tensor, tall: bool) -> Tensor:
    """The smaller Gram matrix, float64; one image at a time, so that not all float64 copies are in memory at once."""
    double = image.double()
    if image.device.type != "cpu":
        return double.mT @ double if tall else double @ double.mT
    # NumPy computes half of a product of a matrix and its own transpose, and mirrors it.
    array = double.detach().numpy()
    return torch.from_numpy(array.T @ array if tall else array @ array.T)


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (b, m) and eigenvectors (b, m, m)."""
    if gram.device.type != "cpu":
        values, vectors = torch.linalg.eigh(gram)
        return values, vectors
    # NumPy's LAPACK takes a fifth less time than the one in torch's own wheels, and does not lose time where threads outnumber free cores.
    values, vectors = np.linalg.eigh(gram.numpy())
    return torch.from_numpy(values), torch.from_numpy(vectors)
