"""Conclusions from measured cells: accuracy and information of each method and budget, and how the two correlate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveate.errors import InputError
from foveate.measure.analysis.correlation import Floats, correlation, estimate, over_questions, permutation_p, ranks, resamples
from foveate.measure.analysis.information_loss import FULL, AnalysisCell, key
from foveate.measure.analysis.kept_states import SOURCES
from foveate.measure.analysis.spectrum import MEASURES
from foveate.measure.scenes import SceneQuestion

__all__ = ["SCOPES", "analyse"]

SCOPES = {
    "cells": "all methods and budgets: do accuracy and information fall together?",
    "equal_budget": "methods at equal budgets: does the method that keeps more information answer more questions?",
    "equal_question": "methods at equal budgets, question by question: is an answer right where more information was kept for it?",
    "equal_draws": "random choices of one size for one question: is an answer right where chance kept more information?",
}
"""What is held constant while information and accuracy are correlated."""

RESAMPLES = 2000


class _Table:
    """Accuracy and information as arrays: methods first, then budgets, then questions; random choices are averaged over their seeds."""

    def __init__(self, results: Mapping[AnalysisCell, Mapping[str, Any]]) -> None:
        self._results = results
        chosen = [cell for cell in results if cell.method != FULL]
        self.methods = list(dict.fromkeys(cell.method for cell in chosen))
        self.budgets = list(dict.fromkeys(cell.keep for cell in chosen))
        self.full = next(cell for cell in results if cell.method == FULL)
        seeds = sorted({cell.seed for cell in chosen if cell.seed is not None})
        self._seeds: dict[str, list[int | None]] = {
            method: [*seeds] if any(cell.seed is not None for cell in chosen if cell.method == method) else [None]
            for method in self.methods
        }
        self.drawn = next((method for method, drawn in self._seeds.items() if len(drawn) > 1), None)

    def methods_by_budget(self, name: str | None) -> Floats:
        """(methods, budgets, questions) of one measure, or of right answers if `None`."""
        rows = [[self.cell(method, keep, name).mean(0) for keep in self.budgets] for method in self.methods]
        return np.array(rows)

    def draws_by_budget(self, name: str | None) -> Floats | None:
        """(seeds, budgets, questions) of the random method."""
        if self.drawn is None:
            return None
        return np.stack([self.cell(self.drawn, keep, name) for keep in self.budgets], axis=1)

    def cell(self, method: str, keep: int, name: str | None) -> Floats:
        """(seeds, questions) of one method and budget."""
        return np.stack([self._values(AnalysisCell(method, keep, seed), name) for seed in self._seeds[method]])

    def whole(self, name: str | None) -> Floats:
        """(questions,) of the full model."""
        return self._values(self.full, name)

    def _values(self, cell: AnalysisCell, name: str | None) -> Floats:
        result = self._results[cell]
        values = [float(sign) for sign in result["right"]] if name is None else result["information"][name]
        return np.asarray(values, dtype=float)


def analyse(results: Mapping[AnalysisCell, Mapping[str, Any]], asked: Sequence[SceneQuestion], layers: Sequence[int]) -> dict[str, Any]:
    """The conclusions from all cells, as plain values for JSON.

    Intervals are the middle 95 % over resampled scenes.

    Args:
        results: of every cell, the full model's among them, as `measure_cell` returns them.
        asked: the questions, in the order of the results.
        layers: decoder layers that were measured.

    Raises:
        InputError: a cell is about different questions or layers.

    Returns:
        "full" and "cells": accuracy and mean information of each method and budget; "correlations": one entry for each source, layer and
        measure, with Pearson's and Spearman's coefficient for each of `SCOPES`; for "equal_budget" also the permutation p of Spearman's
        coefficient over methods, and Spearman's coefficient "without" each of the methods, because a single outlier can create a
        correlation.
    """
    names = [key(source, layer, measure) for source in SOURCES for layer in layers for measure in MEASURES]
    for cell, result in results.items():
        missing = [name for name in names if name not in result["information"]]
        if missing or len(result["right"]) != len(asked):
            what = f"no {missing[0]}" if missing else f"{len(result['right'])} answers to {len(asked)} questions"
            raise InputError(f"the cell {cell.name} has {what}; remove its file, and the same command measures it again")
    table = _Table(results)
    weights = resamples([sample.seed for sample in asked], RESAMPLES)
    weights /= weights.sum(1, keepdims=True)
    return {
        "full": {"method": FULL, "keep": table.full.keep}
        | _summary(table.whole(None), {name: table.whole(name) for name in names}, weights),
        "cells": [
            {"method": method, "keep": keep}
            | _summary(table.cell(method, keep, None).mean(0), {name: table.cell(method, keep, name).mean(0) for name in names}, weights)
            for method in table.methods
            for keep in table.budgets
        ],
        "correlations": [
            {"source": source, "layer": layer, "measure": measure} | _correlations(table, key(source, layer, measure), weights)
            for source in SOURCES
            for layer in layers
            for measure in MEASURES
        ],
    }


def _summary(right: Floats, found: Mapping[str, Floats], weights: Floats) -> dict[str, Any]:
    return {
        "accuracy": estimate(weights @ right).to_dict(),
        "information": {name: round(float(values.mean()), 4) for name, values in found.items()},
    }


def _correlations(table: _Table, name: str, weights: Floats) -> dict[str, Any]:
    """Both coefficients for each of `SCOPES` (the last one only if there are random choices)."""
    x, y = table.methods_by_budget(name), table.methods_by_budget(None)
    cells = x @ weights.T, y @ weights.T
    flat = [
        np.concatenate([part.reshape(-1, 1, part.shape[-1]), (weights @ table.whole(kind))[None, None]])
        for part, kind in zip(cells, (name, None), strict=True)
    ]
    found = {
        "cells": _pair(correlation(flat[0], flat[1]), correlation(ranks(flat[0]), ranks(flat[1])), flat[0].shape[0]),
        "equal_budget": _pair(correlation(*cells), correlation(ranks(cells[0]), ranks(cells[1])), x.shape[0] * x.shape[1]),
        "equal_question": _pair(over_questions(x, y, weights), over_questions(ranks(x), ranks(y), weights), x.size),
    }
    found["equal_budget"]["without"] = _without_each(table.methods, *cells)
    found["equal_budget"]["p_over_methods"] = permutation_p(ranks(cells[0][..., 0]), ranks(cells[1][..., 0]))
    drawn, right = table.draws_by_budget(name), table.draws_by_budget(None)
    if drawn is not None and right is not None:
        found["equal_draws"] = _pair(over_questions(drawn, right, weights), over_questions(ranks(drawn), ranks(right), weights), drawn.size)
    return found


def _without_each(methods: Sequence[str], x: Floats, y: Floats) -> dict[str, Any]:
    """Spearman's coefficient at equal budgets without each of the methods, if at least two others remain."""
    if len(methods) < 3:
        return {}
    others = {method: [place for place in range(len(methods)) if place != left_out] for left_out, method in enumerate(methods)}
    return {method: estimate(correlation(ranks(x[kept]), ranks(y[kept]))).to_dict() for method, kept in others.items()}


def _pair(pearson: Floats, spearman: Floats, points: int) -> dict[str, Any]:
    return {"points": points, "pearson": estimate(pearson).to_dict(), "spearman": estimate(spearman).to_dict()}
