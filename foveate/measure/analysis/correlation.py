"""Correlation over cells and within groups, with intervals from resampled questions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "Floats", "correlation", "estimate", "over_questions", "permutation_p", "ranks", "resamples"]

Floats = NDArray[np.float64]

_MOST_PERMUTATIONS = 5040


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; all three are `None` where the figure is undefined, as for a correlation with a constant."""

    value: float | None
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Plain values for JSON."""
        return asdict(self)


def resamples(clusters: Sequence[int], count: int, seed: int = 0) -> Floats:
    """Weights (count + 1, n) of n questions: the first row is all ones, every other row is one bootstrap resample.

    Args:
        clusters: which cluster (scene) each question is about; clusters are drawn with replacement as a whole, because questions about
            one scene are not independent.
        count: resamples.
        seed: of the draws.
    """
    names, place = np.unique(np.asarray(clusters), return_inverse=True)
    draws = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=count)
    return np.concatenate([np.ones((1, len(place))), draws[:, place].astype(float)])


def ranks(values: Floats) -> Floats:
    """Ranks (m, ...) of values (m, ...) along the first axis, from 1; ties share the mean of their ranks."""
    found = np.empty(values.shape)
    for index, value in enumerate(values):
        found[index] = (values < value).sum(0) + ((values == value).sum(0) + 1) / 2
    return found


def correlation(x: Floats, y: Floats) -> Floats:
    """Correlation (b,) of x and y (m, groups, b) over m members and all groups, each group centred on its own mean.

    With one group it is Pearson's; with more, the partial correlation given the group. Of `ranks` it is Spearman's.
    NaN where x or y is constant within every group.
    """
    return _ratio(*(part.sum((0, 1)) for part in _products(x, y)))


def estimate(values: Floats) -> Estimate:
    """The first of the values (1 + resamples,), with the middle 95 % of the others.

    Resamples in which the figure is undefined are omitted.
    """
    if np.isnan(values[0]):
        return Estimate(None, None, None)
    others = values[1:][~np.isnan(values[1:])]
    low, high = np.quantile(others, [0.025, 0.975]) if len(others) else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high))


def over_questions(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Correlation (b,) of x and y (m, groups, n), each group of each question centred on its own mean, for weights (b, n) of questions."""
    return _ratio(*(weights @ part.sum((0, 1)) for part in _products(x, y)))


def permutation_p(x: Floats, y: Floats) -> float | None:
    """Two-sided permutation p of the correlation of x and y (m, groups) within groups; members are permuted alike in all groups.

    All m! orders are tried, or 5040 random ones if there are more. `None` if the correlation is undefined.
    """
    members = range(len(x))
    orders: list[tuple[int, ...]]
    if len(x) <= 7:
        orders = list(itertools.permutations(members))
    else:
        draw = np.random.default_rng(0)
        orders = [tuple(members), *(tuple(draw.permutation(len(x))) for _ in range(_MOST_PERMUTATIONS - 1))]
    dealt = np.stack([x[list(order)] for order in orders], axis=-1)
    found = correlation(dealt, np.broadcast_to(y[..., None], dealt.shape))
    if np.isnan(found[0]):
        return None
    return float((np.abs(found) >= abs(found[0]) - 1e-12).mean())


def _products(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    x, y = x - x.mean(0), y - y.mean(0)
    return x * y, x * x, y * y


def _ratio(xy: Floats, xx: Floats, yy: Floats) -> Floats:
    size = np.sqrt(xx * yy)
    # What is constant comes out as rounding noise, not as zero.
    return np.where(size > 1e-12, xy / np.maximum(size, 1e-300), np.nan)
