"""The selections of CDPruner, MMTok and Cen-Prune in loops, as their papers write them, as the reference for the fast ones."""

from __future__ import annotations

import math

import numpy as np
from methods_reference import cosine


def stretched(values: list[float]) -> list[float]:
    """Moved and stretched to [0, 1]; all 1 if all are equal."""
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high - low > 1e-11 else 1.0 for value in values]


def slow_distinctiveness(rows: np.ndarray) -> list[float]:
    """Equation 5 of Cen-Prune, scaled: the negated mean cosine to all other tokens."""
    n = len(rows)
    means = [-sum(cosine(rows[i], rows[j]) for j in range(n) if j != i) / max(1, n - 1) for i in range(n)]
    return stretched(means)


def slow_centred_divprune(rows: np.ndarray, keep: int) -> list[int]:
    """Equation 7 of Cen-Prune: greedy max-min selection of centred features, weighted by distinctiveness from the second token on."""
    centred, worth = rows - rows.mean(0), slow_distinctiveness(rows)
    chosen: list[int] = []
    while len(chosen) < keep:
        best, highest = -1, -math.inf
        for i in range(len(rows)):
            if i in chosen:
                continue
            others = chosen or [j for j in range(len(rows)) if j != i]
            value = min(1 - cosine(centred[i], centred[j]) for j in others) * (worth[i] if chosen else 1.0)
            if round(value, 10) > highest:
                best, highest = i, round(value, 10)
        chosen.append(best)
    return chosen


def slow_relevance(rows: np.ndarray, question: np.ndarray) -> list[float]:
    """The mean cosine of each token to the question's, scaled."""
    return stretched([sum(cosine(row, word) for word in question) / len(question) for row in rows])


def slow_kernel(rows: np.ndarray, quality: list[float]) -> np.ndarray:
    """diag(quality) S diag(quality)."""
    n = len(rows)
    return np.array([[quality[i] * cosine(rows[i], rows[j]) * quality[j] for j in range(n)] for i in range(n)])


def slow_largest_volume(kernel: np.ndarray, keep: int) -> list[int]:
    """Greedy search by whole determinants, the lower index first of equals."""
    chosen: list[int] = []
    before = 1.0
    while len(chosen) < keep:
        best, highest = -1, -math.inf
        for i in range(len(kernel)):
            if i in chosen:
                continue
            part = [*chosen, i]
            ratio = float(np.linalg.det(kernel[np.ix_(part, part)])) / before
            if ratio > highest + 1e-9:
                best, highest = i, ratio
        chosen.append(best)
        before = float(np.linalg.det(kernel[np.ix_(chosen, chosen)]))
    return chosen


def slow_softmax(values: list[float]) -> list[float]:
    """Softmax."""
    top = max(values)
    powers = [math.exp(value - top) for value in values]
    return [power / sum(powers) for power in powers]


def slow_mmtok(
    projected: np.ndarray,
    tower: np.ndarray,
    question: np.ndarray,
    keep: int,
    visual: float,
    text_temperature: float,
    visual_temperature: float,
) -> list[int]:
    """Greedy maximum coverage of text tokens, and of visual tokens with a weight; sums equal to 10 digits are equal."""
    text = [slow_softmax([cosine(word, row) / text_temperature for row in projected]) for word in question]
    image = [slow_softmax([cosine(row, other) / visual_temperature for other in tower]) for row in tower]

    def covered(tokens: list[int]) -> float:
        by_text = sum(max(row[v] for v in tokens) for row in text) / len(text)
        return by_text + visual * sum(max(row[v] for v in tokens) for row in image) / len(image)

    chosen: list[int] = []
    while len(chosen) < keep:
        best, highest = -1, -math.inf
        for v in range(len(projected)):
            if v not in chosen and round(covered([*chosen, v]), 10) > highest:
                best, highest = v, round(covered([*chosen, v]), 10)
        chosen.append(best)
    return chosen
