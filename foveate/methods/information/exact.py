"""Exact scores, from a float64 eigendecomposition."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["exact_scores"]

STRIPS = 4
"""Of a Gram matrix on a CPU."""


def exact_scores(states: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Scores (n,) of images (n, d) of one shape, float32, and whether the states of each are finite (b,)."""
    tokens, width = states[0].shape
    tall = tokens > width
    gram = torch.stack([_gram(image, tall) for image in states])
    finite = gram.diagonal(dim1=-2, dim2=-1).sum(-1).isfinite()
    if not bool(finite.all()):
        return [image.new_zeros(tokens, dtype=torch.float32) for image in states], finite
    values, vectors = torch.linalg.eigh(gram)
    if tall:
        return [(image.double() @ v).abs().sum(-1).float() for image, v in zip(states, vectors, strict=True)], finite
    # Eigenvalues below the rounding error of the largest are noise, which their square roots would hide.
    noise = values.amax(-1, keepdim=True) * (values.shape[-1] * torch.finfo(values.dtype).eps)
    singular = torch.where(values > noise, values, 0).sqrt()
    scores = vectors.abs() @ singular.unsqueeze(-1)
    return list(scores.squeeze(-1).float().unbind()), finite


def _gram(image: Tensor, tall: bool) -> Tensor:
    """The smaller Gram matrix, float64; one image at a time, so that not all float64 copies are in memory at once."""
    rows = image.double()
    rows = rows.mT if tall else rows
    if image.device.type != "cpu":
        return rows @ rows.mT
    # The lower half in strips, mirrored: a third less arithmetic.
    gram = rows.new_empty(len(rows), len(rows))
    step = -(-len(rows) // STRIPS)
    for start in range(0, len(rows), step):
        strip = rows[start : start + step] @ rows[: start + step].mT
        gram[start : start + step, : start + step] = strip
        gram[: start + step, start : start + step] = strip.mT
    return gram
