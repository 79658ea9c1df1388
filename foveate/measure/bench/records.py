"""Measurements as plain records that convert to JSON and back: `Run`, its `Group`s by batch size, their `Row`s, and `Figure`s of them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from foveate.files.records import Amount, Count, Document, RecordSchema, Seconds, Size
from foveate.files.writing import write_whole
from foveate.measure.facts import differences
from foveate.measure.result_forms import Facts
from foveate.measure.store import check_same

__all__ = ["Group", "Quartiles", "Row", "Run", "Timing", "figures"]

BENCH_KIND, BENCH_FORMAT = "bench", 1
_Lasting = Annotated[float, Field(ge=1e-9, le=1e9)]
_Operations = Annotated[int, Field(ge=-(10**24), le=10**24)]
_Length = Annotated[int, Field(ge=1, le=2**31)]


@dataclass(frozen=True)
class Quartiles:
    """A median over rounds with its quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quartiles:
        """Median and quartiles of one value per round."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)


@dataclass(frozen=True)
class Timing:
    """One timed generation, in seconds.

    Attributes:
        tower: from pixels to features, in vision tower and projector.
        prefill: the rest of the forward pass that takes the prompt, the method included.
        method: the part of prefill and tower spent on signals and plans.
        ends: from the start to the logits of the n-th new token, by n; 1 is the time to first token.
    """

    tower: Seconds
    prefill: _Lasting
    method: Seconds
    ends: Mapping[_Length, _Lasting]

    def decode(self, count: int) -> float:
        """Seconds per token after the first, over the first `count` tokens."""
        return (self.ends[count] - self.ends[1]) / (count - 1)


@dataclass
class Row:
    """One way of running the model.

    Attributes:
        name: unique in its group.
        kind: "full", "ideal" (fewer tokens, no method) or "method".
        tokens: kept visual tokens, per row of the batch.
        layer: decoder layer before which the others leave; `None` for the full model.
        rival: name of the ideal that it is compared with.
        method: name and options.
        cache_bytes: keys and values after the prefill.
        flops: operations in "tower", "prefill", "method" (part of tower and prefill) and "decode" (one token of every row).
        kernels: fused attention kernels that ran.
        memory: bytes "before" and at the "peak" of one generation, and the "tool" that measured them.
        decoding: how new tokens are made; see `foveate.measure.bench.generating.Decoding`.
        compiled_layers: whether the layers after the cut run as compiled code.
        hooks: host seconds inside hooks during one "prefill" and one "decode" step; see `foveate.measure.bench.hooks`.
        busy: seconds in which a CUDA device computes during one "prefill", the tower apart, and one "decode" step; see
            `foveate.measure.bench.busy`.
        failed: why it was not measured.
        timings: one per round.
    """

    name: str
    kind: Literal["full", "ideal", "method"]
    tokens: Count
    layer: Count | None = None
    rival: str | None = None
    method: Mapping[str, Any] | None = None
    cache_bytes: Count = 0
    flops: Mapping[str, _Operations] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)
    decoding: Literal["loop", "generate", "static", "compiled"] = "loop"
    compiled_layers: bool = False
    hooks: Mapping[str, Seconds] = field(default_factory=dict)
    busy: Mapping[str, Seconds] = field(default_factory=dict)
    failed: str | None = None
    timings: list[Timing] = field(default_factory=list)


@dataclass
class Group:
    """All ways of running one prompt, which take turns.

    Attributes:
        batch: rows of the prompt.
        prompt_tokens: positions per row, including visual tokens.
        visual_tokens: per row.
        rows: the full model first, then ideals and methods.
        failed: why the group has no rows.
    """

    batch: Size
    prompt_tokens: Count
    visual_tokens: Count
    rows: Annotated[list[Row], Field(max_length=1000)] = field(default_factory=list)
    failed: str | None = None

    @property
    def rounds(self) -> int:
        """Rounds that every row has finished, apart from rows that failed."""
        return min((len(row.timings) for row in self.rows if row.failed is None), default=0)

    def row(self, name: str | None) -> Row | None:
        """The row of that name."""
        return next((row for row in self.rows if row.name == name), None)

    def contradiction(self) -> str | None:
        """The first key that contradicts the others, and why; `None` if none does."""
        names = [row.name for row in self.rows]
        if len(set(names)) < len(names) or (not names and self.failed is None):
            return "rows should have distinct names, and exist unless the group failed"
        lengths = {tuple(timing.ends) for row in self.rows for timing in row.timings}
        if len(lengths) > 1 or any(1 not in ends for ends in lengths):
            return "rows.timings should all have ends for the same numbers of new tokens, 1 among them"
        for number, row in enumerate(self.rows):
            if any(list(timing.ends.values()) != sorted(set(timing.ends.values())) for timing in row.timings):
                return f"rows[{number}].timings.ends should rise with the number of new tokens"
            added = row.memory.get("added")
            if not (added is None or (isinstance(added, int) and 0 <= added < 2**53)):
                return f"rows[{number}].memory.added should be a number of bytes or null, not {added!r:.40}"
        return None


@dataclass
class Run:
    """One run of `foveate bench`.

    Attributes:
        settings: what decides what is measured.
        command: its command line.
        facts: versions, machine and model; see `foveate.measure.facts`.
        shape: sizes of the model's parts; see `foveate.measure.bench.shapes.sizes`.
        groups: by batch size.
        host_overhead: by method, what compression costs the host; see `foveate.measure.bench.host_overhead.HostOverhead`.
    """

    settings: dict[str, Any]
    command: str
    facts: dict[str, Any]
    shape: dict[str, Any]
    groups: Annotated[list[Group], Field(max_length=100)] = field(default_factory=list)
    host_overhead: Mapping[str, Mapping[str, Amount]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the figures of every row beside its timings."""
        data = {"kind": BENCH_KIND, "format": BENCH_FORMAT, **asdict(self)}
        for group, plain in zip(self.groups, data["groups"], strict=True):
            for row, cells in zip(group.rows, plain["rows"], strict=True):
                cells["figures"] = {name: asdict(figure) for name, figure in figures(group, row).items()}
        return data

    def resume(self, earlier: Run, path: Path) -> None:
        """Take over the finished rounds of an earlier run.

        Args:
            earlier: as loaded from `path`.
            path: of its file, for the message.

        Raises:
            InputError: it has other settings, or was measured elsewhere or on another model.
        """
        known = {name: earlier.settings.get(name) for name in self.settings}
        check_same(path, known, self.settings, differences(earlier.facts, self.facts))
        self.groups = earlier.groups

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        write_whole(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read what `save` wrote.

        Raises:
            RecordError: the file does not exist, is not a result of foveate bench, or contradicts itself; the message names the key.
        """
        return cls.of(_FORM.read(path))

    @classmethod
    def of(cls, document: Document[Any]) -> Run:
        """The same, from a document that has been read.

        Raises:
            RecordError: it is not a result of foveate bench, or contradicts itself; the message names the key.
        """
        run: Run = _FORM.narrow(document).value
        _FACTS.narrow(document)
        for number, group in enumerate(run.groups):
            problem = group.contradiction()
            if problem:
                raise _FORM.refusal(document.where, f"groups[{number}].{problem}")
        return run


@dataclass(frozen=True)
class _Surroundings:
    """What is read of a run in addition to its groups."""

    facts: Facts
    shape: dict[str, dict[str, Any]]


_WHAT = "a file of results of foveate bench"
_FORM: RecordSchema[Run] = RecordSchema(_WHAT, Run, {"kind": BENCH_KIND, "format": BENCH_FORMAT}, limit=2**28)
_FACTS: RecordSchema[_Surroundings] = RecordSchema(_WHAT, _Surroundings)


def figures(group: Group, row: Row) -> dict[str, Quartiles]:
    """Median and quartiles over rounds of every timed quantity.

    Ratios are formed within each round; none is formed with a row that failed or ran another attention kernel.

    Returns:
        seconds: "tower", "prefill", "method", "first_token", and for each number n of new tokens "decode n" (per token after the first)
        and "end_to_end n"; "tokens_per_second n"; ratios to the full model: "prefill_of_full", "first_token_of_full", "decode_of_full n",
        "end_to_end_of_full n", "method_of_full_prefill"; "over_ideal", the prefill divided by that of the ideal, minus one;
        "decode_of_same n", to the full model that decodes in the same way. What `generate` decodes is compared with the full model that
        `generate` decodes with its default cache.
    """
    if row.failed is not None or not row.timings:
        return {}
    counts = [count for count in row.timings[0].ends if count > 1]
    measures: dict[str, Callable[[Timing], float]] = {
        "tower": lambda timing: timing.tower,
        "prefill": lambda timing: timing.prefill,
        "first_token": lambda timing: timing.ends[1],
    }
    for count in counts:
        measures[f"decode {count}"] = lambda timing, count=count: timing.decode(count)  # type: ignore[misc]
        measures[f"end_to_end {count}"] = lambda timing, count=count: timing.ends[count]  # type: ignore[misc]
    found = {name: Quartiles.of([measure(timing) for timing in row.timings]) for name, measure in measures.items()}
    for count in (1, *counts):
        found[f"tokens_per_second {count}"] = Quartiles.of([group.batch * count / timing.ends[count] for timing in row.timings])
    if row.kind == "method":
        found["method"] = Quartiles.of([timing.method for timing in row.timings])
    full, same, rival = (_comparable(group, row, name) for name in (_full(group, row), _full(group, row, row.decoding), row.rival))
    if full is not None:
        for name, measure in measures.items():
            kind, _, length = name.partition(" ")
            if kind != "tower":
                ratios = [measure(a) / measure(b) for a, b in zip(row.timings, full.timings, strict=True)]
                found[f"{kind}_of_full {length}".strip()] = Quartiles.of(ratios)
        if row.kind == "method":
            shares = [a.method / b.prefill for a, b in zip(row.timings, full.timings, strict=True)]
            found["method_of_full_prefill"] = Quartiles.of(shares)
    for count in counts if same is not None else ():
        found[f"decode_of_same {count}"] = Quartiles.of(
            [a.decode(count) / b.decode(count) for a, b in zip(row.timings, same.timings, strict=True)]  # type: ignore[union-attr]
        )
    if rival is not None:
        found["over_ideal"] = Quartiles.of([a.prefill / b.prefill - 1 for a, b in zip(row.timings, rival.timings, strict=True)])
    return found


def _full(group: Group, row: Row, decoding: str | None = None) -> str | None:
    """The name of the full model's row that decodes in a way; by default with a growing cache, in a loop or not as `row` does."""
    wanted = decoding or ("loop" if row.decoding == "loop" else "generate")
    return next((each.name for each in group.rows if each.kind == "full" and each.decoding == wanted), None)


def _comparable(group: Group, row: Row, name: str | None) -> Row | None:
    other = group.row(name)
    if other is None or other.failed is not None or other.kernels != row.kernels or len(other.timings) != len(row.timings):
        return None
    return other
