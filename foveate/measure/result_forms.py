"""Schemas of result files: of `foveate eval` (single evaluations, and all of them together) and of `foveate analyse`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from foveate.files.records import Amount, Count, Number, RecordSchema, Seconds, Size, brief

__all__ = [
    "ANALYSED_CELL", "ANALYSIS", "CELL", "DRAWN", "DRAWN_SOURCES", "EVALUATION", "RESULTS_FORMAT", "Facts",
    "digest", "same_questions",
]  # fmt: skip

RESULTS_FORMAT = 1
DRAWN_SOURCES, DRAWN = ("hidden_states", "attention_output"), "effective_rank"
"""The states and the measure that the plot of an analysis shows."""
_LIMIT = 2**30
_REMEDY = "remove it, and the same command recreates it"


@dataclass(frozen=True)
class ModelFacts:
    """The part of `foveate.measure.facts.describe` that is read again."""

    fingerprint: str | None = None
    parameters: Count = 0
    dtype: str | None = None
    attention: dict[str, str] | None = None
    sdpa_backends: list[str] | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Facts:
    """The part of `foveate.measure.facts.facts` that is read again."""

    date: str | None = None
    accelerator: str | None = None
    processor: str | None = None
    threads: Count | None = None
    cores: Count | None = None
    model: ModelFacts | None = None


@dataclass(frozen=True)
class _Answered:
    """A question with its answer, `foveate.measure.evaluation.harness.Sample`."""

    id: str
    answer: str
    target: str
    score: Number | None


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What a single evaluation and its entry in the results have in common."""

    score: Number
    questions: Size
    data: str
    tokens_at_the_cut: Amount
    mean_tokens_over_layers: Amount
    method_seconds: Seconds
    seconds: Seconds
    method: str | None
    samples: Annotated[list[_Answered], Field(min_length=1)]

    def __post_init__(self) -> None:
        if len(self.samples) != self.questions:
            raise ValueError(f"samples are {len(self.samples)}, and questions says {self.questions}")


@dataclass(frozen=True, kw_only=True)
class _Cell(_Scored):
    """As written by `foveate.measure.evaluation.runs.cell_of`."""

    facts: Facts

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.facts.model is None or self.facts.model.fingerprint is None:
            raise ValueError("facts.model.fingerprint is missing")
        if self.data != digest([(sample.id, sample.target) for sample in self.samples]):
            raise ValueError("data is not the hash of the samples, so one of them was changed")


@dataclass(frozen=True, kw_only=True)
class _Figures(_Scored):
    """As written by `foveate.measure.evaluation.results.gather`."""

    low: Number | None
    high: Number | None
    of_full: Number | None
    of_image: Number | None
    loyalty: Number | None
    lost: Count | None
    won: Count | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for one, other in (("low", "high"), ("lost", "won")):
            if (getattr(self, one) is None) != (getattr(self, other) is None):
                raise ValueError(f"{one} and {other} should both be numbers, or both null")


@dataclass(frozen=True)
class _Means:
    """The part of the means over tasks that is read again."""

    of_full: Number | None
    tokens_at_the_cut: Amount


@dataclass(frozen=True)
class _Named:
    """A task's display name."""

    name: str | None = None


@dataclass(frozen=True)
class _Evaluation:
    """As written by `gather`."""

    command: str
    facts: Facts
    settings: dict[str, Any]
    results: dict[str, dict[str, _Figures]]
    mean: dict[str, _Means]
    tasks: dict[str, _Named] = field(default_factory=dict)


@dataclass(frozen=True)
class _Interval:
    value: Number | None
    low: Number | None
    high: Number | None

    def __post_init__(self) -> None:
        if len({bound is None for bound in (self.value, self.low, self.high)}) > 1:
            raise ValueError("value, low and high should all be numbers, or all null")


@dataclass(frozen=True)
class _Correlated:
    spearman: _Interval


@dataclass(frozen=True)
class _Entry:
    """The correlations of one measure."""

    source: str
    layer: Count
    measure: str
    cells: _Correlated
    equal_budget: _Correlated
    equal_question: _Correlated
    equal_draws: _Correlated | None = None


@dataclass(frozen=True)
class _Accuracy:
    value: Number
    low: Number
    high: Number


@dataclass(frozen=True)
class _Budget:
    """One method at one budget."""

    method: str
    keep: Size
    accuracy: _Accuracy
    information: dict[str, Number]


@dataclass(frozen=True)
class _AnalysisSettings:
    questions: str
    layer: Count
    layers: Annotated[list[Count], Field(min_length=1)]


@dataclass(frozen=True)
class _Analysis:
    """As written by `foveate analyse`."""

    command: str
    facts: Facts
    settings: _AnalysisSettings
    questions: Count
    scenes: Count
    full: _Budget
    cells: Annotated[list[_Budget], Field(min_length=1)]
    correlations: Annotated[list[_Entry], Field(min_length=1)]

    def __post_init__(self) -> None:
        there = {(entry.source, entry.layer, entry.measure) for entry in self.correlations}
        for wanted in ((source, layer, DRAWN) for source in DRAWN_SOURCES for layer in self.settings.layers):
            if wanted not in there:
                raise ValueError("correlations has no entry of {}, layer {}, {}".format(*wanted))
        for entry in self.correlations:
            name = f"{entry.source} {entry.layer} {entry.measure}"
            without = next((cell for cell in (self.full, *self.cells) if name not in cell.information), None)
            if without is not None:
                raise ValueError(
                    f"cells: {brief(without.method)} at {without.keep} has no information {brief(name)}, of which there is a correlation"
                )
        budgets: dict[str, set[int]] = {}
        for cell in self.cells:
            budgets.setdefault(cell.method, set()).add(cell.keep)
        if len({frozenset(kept) for kept in budgets.values()}) > 1 or sum(map(len, budgets.values())) != len(self.cells):
            raise ValueError("cells should be the same budgets of every method, each once")


@dataclass(frozen=True)
class _AnalysedCell:
    """As written by `foveate.measure.analysis.information_loss.measure_cell`."""

    right: Annotated[str, Field(pattern=r"^[01]+$")]
    tokens: Amount
    information: dict[str, list[Number]]

    def __post_init__(self) -> None:
        for name, values in self.information.items():
            if len(values) != len(self.right):
                raise ValueError(
                    f"information[{brief(name)}] should have a number for each of {len(self.right)} questions, not {len(values)}"
                )


CELL: RecordSchema[Any] = RecordSchema("a finished evaluation", _Cell, remedy=_REMEDY, limit=_LIMIT)
EVALUATION: RecordSchema[Any] = RecordSchema("a file of results of foveate eval", _Evaluation, {"format": RESULTS_FORMAT}, limit=_LIMIT)
ANALYSIS: RecordSchema[Any] = RecordSchema(
    "a file of results of foveate analyse", _Analysis, {"kind": "foveate analyse", "format": 1}, limit=_LIMIT
)
ANALYSED_CELL: RecordSchema[Any] = RecordSchema("a measured cell of foveate analyse", _AnalysedCell, remedy=_REMEDY, limit=_LIMIT)


def digest(rows: Sequence[tuple[str, str]]) -> str:
    """SHA-256 over ids and targets of questions, in order."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def same_questions(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two evaluations of a task have the same questions, so that they can be compared question by question."""
    return bool(one["data"] == other["data"]) and len(one["samples"]) == len(other["samples"])
