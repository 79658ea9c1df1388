"""All finished evaluations of a run in one document: scores compared with the full model's and with those without the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from foveate.measure.evaluation.runs import BLIND, FULL
from foveate.measure.evaluation.suites import known
from foveate.measure.result_forms import RESULTS_FORMAT, same_questions
from foveate.measure.statistics import mean_interval

__all__ = ["gather", "half"]

Evaluation = Mapping[str, Any]

MEANS = ("of_full", "of_image", "loyalty", "tokens_at_the_cut", "mean_tokens_over_layers", "method_seconds", "seconds")
"""Figures that are averaged over tasks; scores are not, because each task has its own scale."""


def gather(cells: Mapping[str, Mapping[str, Evaluation]], about: Mapping[str, Any]) -> dict[str, Any]:
    """One document of a run.

    Args:
        cells: what `runs.cell_of` returned, by setting and task; others are compared with "full" and "blind" if present.
        about: facts, settings and further entries.

    Returns:
        `about`, and by setting and task the figures: "score"; "low" and "high", its 95 % interval where it is the mean of the
        questions' own scores, else `None`; "of_full", its share of the full model's; "of_image", the share of what the image adds
        that remains, (score - blind) / (full - blind); "loyalty", the share of answers that equal the full model's; "lost" and "won",
        questions that only the full model, or only this setting, answers correctly; the mean costs of an answer; and the samples.
        Under "mean" by setting the means over its tasks.
    """
    full, blind = cells.get(FULL.name, {}), cells.get(BLIND.name, {})
    settings: dict[str, dict[str, Any]] = {}
    for setting, tasks in cells.items():
        settings[setting] = {task: _figures(task, cell, full.get(task), blind.get(task)) for task, cell in tasks.items()}
    means = {setting: {name: _mean([task[name] for task in tasks.values()]) for name in MEANS} for setting, tasks in settings.items()}
    return {"format": RESULTS_FORMAT, **about, "results": settings, "mean": means}


def _figures(task: str, cell: Evaluation, full: Evaluation | None, blind: Evaluation | None) -> dict[str, Any]:
    scores = [sample["score"] for sample in cell["samples"] if sample["score"] is not None]
    low, high = _interval(cell["score"], scores) if known(task).group == 1 else (None, None)
    figures = {key: value for key, value in cell.items() if key != "samples"}
    figures |= {"low": low, "high": high, "of_full": None, "of_image": None, "loyalty": None, "lost": None, "won": None}
    if full is not None and same_questions(full, cell):
        figures |= _beside(cell, full)
        if blind is not None and same_questions(blind, cell) and full["score"] != blind["score"]:
            figures["of_image"] = (cell["score"] - blind["score"]) / (full["score"] - blind["score"])
    return {**figures, "samples": cell["samples"]}


def _interval(score: float, scores: Sequence[float]) -> tuple[float | None, float | None]:
    """The interval of a score that is the mean of the questions' own scores."""
    if not scores or abs(fmean(scores) - score) > 1e-6 * max(1.0, abs(score)):
        return None, None
    return mean_interval(scores)


def _beside(cell: Evaluation, full: Evaluation) -> dict[str, Any]:
    pairs = list(zip(full["samples"], cell["samples"], strict=True))
    same = sum(_plain(one["answer"]) == _plain(other["answer"]) for one, other in pairs)
    scored = [(one["score"], other["score"]) for one, other in pairs if one["score"] is not None and other["score"] is not None]
    line = half([score for pair in scored for score in pair])
    return {
        "of_full": cell["score"] / full["score"] if full["score"] else None,
        "loyalty": same / len(pairs),
        "lost": sum(one >= line > other for one, other in scored) if scored else None,
        "won": sum(one < line <= other for one, other in scored) if scored else None,
    }


def half(scores: Sequence[float]) -> float:
    """The score from which a question counts as right: half of the best score, which is 1 or, for some tasks, 100."""
    return 50.0 if max(scores, default=0.0) > 1 else 0.5


def _plain(answer: str) -> str:
    """An answer without differences that no score depends on."""
    return " ".join(answer.split()).casefold().rstrip(".")


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None
