"""Whether two results on the same questions differ by more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from foveate.errors import InputError
from foveate.measure.evaluation.results import half
from foveate.measure.result_forms import EVALUATION, same_questions
from foveate.measure.statistics import mcnemar, paired_bootstrap

__all__ = ["Comparison", "compare", "read_results"]


@dataclass(frozen=True)
class Comparison:
    """One task under two settings.

    Attributes:
        first: name of the first setting.
        second: name of the second.
        task: the task.
        questions: number of questions with a score in both.
        difference: mean score of the second minus that of the first, in the scale of a question's score.
        low: lower bound of the 95 % interval of the difference, by paired bootstrap.
        high: its upper bound.
        bootstrap_p: two-sided, by paired bootstrap.
        lost: questions that only the first answers correctly.
        won: questions that only the second answers correctly.
        mcnemar_p: exact McNemar test; `None` if questions can be partly right.
    """

    first: str
    second: str
    task: str
    questions: int
    difference: float
    low: float
    high: float
    bootstrap_p: float
    lost: int
    won: int
    mcnemar_p: float | None


def read_results(text: str) -> tuple[dict[str, Any], str | None]:
    """Read the results that "FILE" or "FILE:SETTING" names; returns them with the setting, if one is named.

    Raises:
        InputError: the file does not exist, contains no results, or lacks the setting.
    """
    path, setting = Path(text), None
    if not path.exists() and ":" in text:
        name, _, setting = text.rpartition(":")
        path = Path(name)
    if path.is_dir():
        path = path / "results.json"
    if not path.is_file():
        raise InputError(f"no such file of results: {path}; foveate eval writes results.json in the folder of a run")
    data = EVALUATION.read(path).raw
    if setting is not None and setting not in data["results"]:
        raise InputError(f"{path} has no setting {setting!r}; it has {', '.join(data['results'])}")
    return data, setting


def compare(first: str, second: str) -> tuple[list[Comparison], list[str]]:
    """Compare two results question by question.

    Args:
        first: "FILE", for all settings that both have, or "FILE:SETTING", such as "run/results.json:tokencarve-128".
        second: in the same form; it may be the same file.

    Returns:
        a comparison for each setting and task, and notes for the reader, one sentence each.

    Raises:
        InputError: a file or setting does not exist, or the two have no questions in common.
    """
    (one, chosen), (other, against) = read_results(first), read_results(second)
    pairs = _pairs(one["results"], other["results"], chosen, against)
    found: list[Comparison] = []
    notes = _notes(one, other)
    for a, b in pairs:
        before, after = one["results"][a], other["results"][b]
        for task in before:
            if task not in after:
                continue
            if not same_questions(before[task], after[task]):
                raise InputError(f"{task}: {first} and {second} are about different questions, so they cannot be compared one by one")
            comparison = _compare(a, b, task, before[task]["samples"], after[task]["samples"])
            if comparison is None:
                notes.append(f"{task}: its questions have no individual scores")
            else:
                found.append(comparison)
    if not found:
        raise InputError(f"{first} and {second} have no task with scores in common")
    return found, notes


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any], chosen: str | None, against: str | None) -> list[tuple[str, str]]:
    if chosen is not None or against is not None:
        names = (chosen or against or "", against or chosen or "")
        for name, results in zip(names, (one, other), strict=True):
            if name not in results:
                raise InputError(f"setting {name!r} is not in both files; write FILE:SETTING with one of {', '.join(results)}")
        return [names]
    common = [name for name in one if name in other]
    if not common:
        raise InputError(f"no setting is in both files ({', '.join(one)}; {', '.join(other)}); write FILE:SETTING for each")
    return [(name, name) for name in common]


def _compare(first: str, second: str, task: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> Comparison | None:
    scores = [(a["score"], b["score"]) for a, b in zip(one, other, strict=True) if a["score"] is not None and b["score"] is not None]
    if not scores:
        return None
    before, after = [a for a, _ in scores], [b for _, b in scores]
    line = half([*before, *after])
    lost, won = sum(a >= line > b for a, b in scores), sum(a < line <= b for a, b in scores)
    low, high, chance = paired_bootstrap(before, after)
    whole = {*before, *after} <= {0.0, 2 * line}
    return Comparison(
        first=first,
        second=second,
        task=task,
        questions=len(scores),
        difference=fmean(after) - fmean(before),
        low=low,
        high=high,
        bootstrap_p=chance,
        lost=lost,
        won=won,
        mcnemar_p=mcnemar(lost, won) if whole else None,
    )


def _notes(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    models = [data.get("facts", {}).get("model") or {} for data in (one, other)]
    if models[0].get("fingerprint") != models[1].get("fingerprint"):
        return ["the two results are of different models or weights"]
    return []
