"""A slow and obvious TokenCarve in NumPy float64, with a full SVD and loops, as the reference for the fast one."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

GOLDEN = sorted((Path(__file__).parents[1] / "data" / "golden").glob("*.npz"))


def golden_case(path: Path) -> tuple[dict[str, np.ndarray], float]:
    """The arrays of a case, and the attention weight that its mode and weight mean."""
    with np.load(path) as file:
        case = {name: file[name] for name in file.files}
    return case, {0: float(case["weight"]), 1: 0.0, 2: 1.0}[int(case["mode"])]


def slow_information(hidden: np.ndarray) -> np.ndarray:
    """Sum over k of |U[i, k]| S[k] of the full singular value decomposition."""
    u, s, _ = np.linalg.svd(hidden.astype(np.float64), full_matrices=False)
    return np.array([sum(abs(u[i, k]) * s[k] for k in range(len(s))) for i in range(len(hidden))])


def slow_points(values: np.ndarray) -> list[int]:
    """n points for the best, 1 for the worst, the lower index first of equals."""
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    return [len(values) - order.index(i) for i in range(len(values))]


def slow_scores(hidden: np.ndarray, attention: np.ndarray, weight: float) -> list[Fraction]:
    """Weighted sums of the two kinds of points, as exact fractions."""
    exact = Fraction(weight).limit_denominator(10**6)
    pairs = zip(slow_points(attention), slow_points(slow_information(hidden)), strict=True)
    return [exact * a + (1 - exact) * i for a, i in pairs]


def slow_order(scores: list[Fraction]) -> list[int]:
    """Tokens by descending score, the lower index first of equals."""
    return sorted(range(len(scores)), key=lambda i: (-scores[i], i))


def slow_target(hidden: np.ndarray, order: list[int], keep: int, stage_one: float = 1.5) -> list[int]:
    """The plan's target, from the tokens in order of their score."""
    n, hidden = len(order), hidden.astype(np.float64)
    survivors = min(math.floor(Fraction(stage_one).limit_denominator(10**6) * keep), n)
    better, worse = sorted(order[: survivors // 2]), sorted(order[survivors // 2 : survivors])
    target = [-1] * n
    for token in better + worse:
        target[token] = token
    offers = []
    for b in worse:
        likeness = [round(cosine(hidden[b], hidden[a]), 11) for a in better]
        best = max(likeness, default=0.0)
        offers.append((-best, b, better[likeness.index(best)] if better else b))
    for _, b, a in sorted(offers)[: survivors - keep]:
        target[b] = a
    return target


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Cosine similarity; 0 where a vector is 0."""
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size else 0.0


def decaying(n: int, d: int, seed: int, power: float = 0.7) -> torch.Tensor:
    """Random states (n, d), float32, whose columns decay by a power law."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * torch.arange(1, d + 1).float() ** -power
