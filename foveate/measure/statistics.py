"""Confidence intervals of scores, and tests of whether two scores on the same questions differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_mean", "mcnemar", "mean_interval", "paired_bootstrap", "wilson"]

DRAWS = 10_000
_Z = 1.959964
_LARGEST = 50_000_000
"""Indices drawn at once: 400 MB."""


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share.

    Args:
        right: number of right answers.
        count: number of questions.

    Raises:
        ValueError: `count` is below one.
    """
    if count < 1:
        raise ValueError("an interval needs at least one question")
    middle = (right + _Z**2 / 2) / (count + _Z**2)
    reach = _Z * math.sqrt(right * (count - right) / count + _Z**2 / 4) / (count + _Z**2)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def bootstrap_mean(values: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % interval of a mean: percentiles of the means of resampled values.

    Args:
        values: one per question; at least one.
        seed: of the draws.
        draws: resamplings.
    """
    means = _means(np.asarray(values, dtype=float), seed, draws)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The 95 % interval of a mean score: Wilson's where every question is right or wrong, else by bootstrap."""
    top = max(values, default=0.0)
    if top > 0 and set(values) <= {0.0, top} and top in (1.0, 100.0):
        low, high = wilson(sum(value == top for value in values), len(values))
        return low * top, high * top
    if not any(values):
        return wilson(0, len(values))
    return bootstrap_mean(values)


def mcnemar(lost: int, won: int) -> float:
    """The exact two-sided p-value of the McNemar test, over the questions that only one of two runs answers correctly.

    Args:
        lost: questions that only the first answers correctly.
        won: questions that only the second answers correctly.
    """
    total = lost + won
    tail = sum(math.comb(total, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**total)


def paired_bootstrap(first: Sequence[float], second: Sequence[float], seed: int = 0, draws: int = DRAWS) -> tuple[float, float, float]:
    """How much higher the second mean is on the same questions.

    Args:
        first: scores, one per question.
        second: scores of the same questions, in the same order.
        seed: of the draws.
        draws: resamplings of questions, both runs' scores together.

    Returns:
        the bounds of the 95 % interval of the difference, and the two-sided p-value: twice the share of resamplings in which
        the difference is zero or has the opposite sign, at least one in `draws`.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"a paired test needs the same questions, at least one; there are {len(first)} and {len(second)}")
    differences = np.asarray(second, dtype=float) - np.asarray(first, dtype=float)
    means = _means(differences, seed, draws)
    low, high = np.percentile(means, (2.5, 97.5))
    tail = min(float((means <= 0).mean()), float((means >= 0).mean()))
    return float(low), float(high), min(1.0, 2 * max(tail, 1 / draws))


def _means(values: NDArray[np.float64], seed: int, draws: int) -> NDArray[np.float64]:
    """Means (draws,) of resampled values (n,)."""
    rng = np.random.default_rng(seed)
    step = max(1, _LARGEST // len(values))
    parts = [
        values[rng.integers(len(values), size=(min(step, draws - start), len(values)))].mean(axis=1) for start in range(0, draws, step)
    ]
    return np.concatenate(parts)
