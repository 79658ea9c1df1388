"""Exact scores, from a float64 eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["eigh_on_cpu", "exact_scores", "gram_on_cpu"]


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
    double = double.mT if tall else double
    return gram_on_cpu(double) if image.device.type == "cpu" else double @ double.mT


def _eigh(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (b, m) and eigenvectors (b, m, m)."""
    values, vectors = eigh_on_cpu(gram) if gram.device.type == "cpu" else torch.linalg.eigh(gram)
    return values, vectors


# Operators of torch, so that whatever counts operations or traces them sees these two.


@torch.library.custom_op("foveate::gram", mutates_args=(), schema="(Tensor rows) -> Tensor")
def gram_on_cpu(rows: Tensor) -> Tensor:
    """`rows @ rows.mT` of a matrix on the CPU. NumPy computes half of it and mirrors that."""
    array = rows.detach().numpy()
    return torch.from_numpy(array @ array.T)


@torch.library.custom_op("foveate::eigh", mutates_args=(), schema="(Tensor matrices) -> (Tensor, Tensor)")
def eigh_on_cpu(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`torch.linalg.eigh` on the CPU by NumPy's LAPACK, which takes a fifth less time than that in torch's own wheels."""
    values, vectors = np.linalg.eigh(matrices.detach().numpy())
    return torch.from_numpy(values), torch.from_numpy(vectors)
