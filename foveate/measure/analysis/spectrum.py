"""How much information a matrix of states contains, from its singular values."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.errors import InputError

__all__ = ["ENERGIES", "MEASURES", "effective_rank", "energy_rank", "information", "singular_values"]

ENERGIES = (90, 95, 99)
"""Percentages of the energy for which `information` gives the energy rank."""

MEASURES = ("effective_rank", *(f"energy_rank_{percent}" for percent in ENERGIES))
"""The keys that `information` returns."""


def singular_values(states: Tensor) -> Tensor:
    """Singular values (min(n, d),) of states (n, d), descending, in float64; rounding noise is set to 0.

    Raises:
        InputError: `states` contains NaN or infinity, or is not a matrix with at least one row and column.
    """
    if states.ndim != 2 or states.numel() == 0:
        raise InputError(f"states must have shape (n, d), none of them 0, not {tuple(states.shape)}")
    doubles = states.double()
    if not bool(doubles.isfinite().all()):
        raise InputError("states contain NaN or infinity, so they have no singular values; check the model's dtype")
    gram = doubles.mT @ doubles if len(states) > states.shape[1] else doubles @ doubles.mT
    squares: Tensor = torch.linalg.eigvalsh(gram).flip(0)
    noise = squares[0].clamp(min=0) * (len(squares) * torch.finfo(squares.dtype).eps)
    return torch.where(squares > noise, squares, 0).sqrt()


def effective_rank(values: Tensor) -> float:
    """Exponential of the entropy of the singular values (k,), normalised to sum to one; 0 for a matrix of zeros.

    Between 1 (one direction only) and k (all directions are equal). From "The effective rank: a measure of effective
    dimensionality", Roy and Vetterli, EUSIPCO 2007.
    """
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(torch.exp(-(shares * shares.log()).sum()))


def energy_rank(values: Tensor, share: float) -> int:
    """The number of largest singular values (k,), descending, that make up `share` of the sum of squares; 0 for zeros.

    Raises:
        ValueError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be in (0, 1]")
    energy = values.square().cumsum(0)
    if energy[-1] <= 0:
        return 0
    # Rounding in the running sum must not add a direction.
    return int((energy < share * energy[-1] * (1 - 1e-12)).sum()) + 1


def information(states: Tensor) -> dict[str, float]:
    """Every one of `MEASURES` of states (n, d)."""
    values = singular_values(states)
    ranks = {f"energy_rank_{percent}": float(energy_rank(values, percent / 100)) for percent in ENERGIES}
    return {"effective_rank": effective_rank(values), **ranks}
