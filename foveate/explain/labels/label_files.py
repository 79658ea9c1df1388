"""The files of a folder of labels: Parquet shards that `datasets` reads, `labels.json` and `skipped.jsonl`.

    datasets.load_dataset("parquet", data_files="LABELS/*.parquet", split="train")

A shard is complete or absent: it is written under another name and renamed. The shard's footer lists the samples that gave no row, so
both are committed together; `labels.json` and `skipped.jsonl` can be rebuilt from the shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from foveate.engine.identity import ModelIdentity
from foveate.errors import InputError
from foveate.files.records import ANYTHING, Count, RecordSchema, check_regular
from foveate.files.writing import whole, write_whole

__all__ = [
    "LABELS_FORMAT",
    "INFO",
    "SKIPPED",
    "Counts",
    "LabelRow",
    "LabelsInfo",
    "ShardSummary",
    "ShardWriter",
    "Skipped",
    "read_summary",
    "read_info",
    "schema",
    "shard_path",
    "shards",
    "write_info",
]

LABELS_FORMAT = 1
INFO, SKIPPED = "labels.json", "skipped.jsonl"

_FOOTER_KEY = "foveate"
_BUFFER_BYTES = 64 * 2**20
_ROW: list[tuple[str, pa.DataType, bool]] = [
    ("id", pa.string(), False),
    ("question", pa.string(), False),
    ("answer", pa.string(), False),
    ("reference", pa.string(), True),
    ("kind", pa.string(), False),
    ("grid", pa.list_(pa.int32()), False),
    ("parts", pa.list_(pa.list_(pa.int32())), False),
    ("relevance", pa.list_(pa.float32()), False),
    ("attention", pa.list_(pa.list_(pa.float16())), False),
    ("answer_tokens", pa.int32(), False),
    ("correct", pa.bool_(), True),
]
_STATES = ("states", pa.list_(pa.list_(pa.float16())), False)


@dataclass(frozen=True, eq=False)
class LabelRow:
    """The label of one image (or video) of one sample.

    Attributes:
        id: sample and image, `SAMPLE/POSITION`; the same in every run over the same data.
        question: as asked.
        answer: the model's answer.
        reference: the acceptable answers, joined by " | "; `None` if the data have none.
        kind: "image" or "video".
        grid: (t, h, w); (1, 1, n) if there are several parts.
        parts: (t, h, w) of each part.
        relevance: (n,) float32, averaged over the answer's tokens.
        attention: (heads, n) float16, attention to each visual token in decoder layer 0, averaged over the question's tokens.
        answer_tokens: how many tokens the answer has.
        correct: whether the answer matches a reference; `None` without one.
        states: (n, d) float16, the visual tokens at the language model's input, if requested.
    """

    id: str
    question: str
    answer: str
    reference: str | None
    kind: str
    grid: tuple[int, int, int]
    parts: tuple[tuple[int, int, int], ...]
    relevance: NDArray[np.float32]
    attention: NDArray[np.float16]
    answer_tokens: int
    correct: bool | None
    states: NDArray[np.float16] | None = None


@dataclass(frozen=True)
class Skipped:
    """A sample that could not be used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Counts:
    """How many samples gave what: asked = kept + wrong + skipped; a kept sample has one row per image."""

    asked: Count = 0
    kept: Count = 0
    wrong: Count = 0
    skipped: Count = 0
    rows: Count = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, own.name) + getattr(other, own.name) for own in fields(self)))


@dataclass(frozen=True)
class ShardSummary:
    """What the footer of a shard says about its samples: how many were kept, and the names of the others."""

    counts: Counts
    wrong: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class LabelsInfo:
    """How labels were made: the content of `labels.json`.

    Attributes:
        model: which model they belong to.
        name: the model's name or folder.
        target: the quantity that relevance explains: "logit" or "log_probability".
        gradients: whether attention was weighted by gradients.
        states: whether rows have `states`.
        data: the questions: source, split, columns, number of samples, a hash over their texts.
        choice: how answers were made and matched.
        shards: how many there will be when all is done.
        versions: of the packages that made them.
        counts: over all shards; `None` until all is done.
    """

    model: ModelIdentity
    name: str
    target: Literal["logit", "log_probability"]
    gradients: bool
    states: bool
    data: Mapping[str, Any]
    choice: Mapping[str, Any]
    shards: Count
    versions: Mapping[str, str] = field(default_factory=dict)
    counts: Counts | None = None

    @property
    def heads(self) -> int:
        """Rows of `attention`."""
        return self.model.heads

    @property
    def layers(self) -> int:
        """Decoder layers that relevance was traced through."""
        return self.model.layers

    @property
    def hidden(self) -> int:
        """Width of `states`."""
        return self.model.hidden

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"format": LABELS_FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelsInfo:
        """The inverse of `to_dict`.

        Raises:
            RecordError: `data` does not match, or has a format that this version does not read; the message names the key.
        """
        return _INFO_SCHEMA.of(dict(data), "this dictionary").value

    def differences(self, other: LabelsInfo) -> list[str]:
        """The settings that differ from another run's although one folder needs equal ones, as `name ours instead of theirs`."""
        ours, theirs = _settings(self), _settings(other)
        found = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
        model = [f"model's {text}" for text in self.model.differences(other.model)]
        return [*model, *(f"{name} {ours.get(name)!r} instead of {theirs.get(name)!r}" for name in found)]


_REMEDY = "make the labels again with `foveate labels`"
_INFO_SCHEMA: RecordSchema[LabelsInfo] = RecordSchema("a record of labels", LabelsInfo, {"format": LABELS_FORMAT}, _REMEDY)
_SUMMARY_SCHEMA: RecordSchema[ShardSummary] = RecordSchema(
    "a shard of labels", ShardSummary, remedy="remove it, and the same command makes it again"
)


def read_info(folder: str | Path) -> LabelsInfo:
    """How the labels in a folder were made.

    Raises:
        InputError: the folder has no labels.
        RecordError: their record is damaged, or in another format.
    """
    path = Path(folder) / INFO
    if not path.is_file():
        raise InputError(f"{folder} holds no labels (there is no {INFO}); name a folder that `foveate labels` wrote")
    return _INFO_SCHEMA.read(path).value


def write_info(folder: Path, info: LabelsInfo) -> None:
    """Write `labels.json`, whole or not at all."""
    write_whole(folder / INFO, json.dumps(info.to_dict(), ensure_ascii=False, indent=2) + "\n")


def shards(folder: str | Path) -> list[Path]:
    """The finished shards of a folder, in the order of the data."""
    return sorted(Path(folder).glob("shard-*.parquet"))


def shard_path(folder: Path, number: int) -> Path:
    """The path of a shard, by its number."""
    return folder / f"shard-{number:05d}.parquet"


def schema(states: bool) -> pa.Schema:
    """The columns of a shard, with or without the visual tokens' states."""
    return pa.schema([pa.field(name, kind, nullable=optional) for name, kind, optional in [*_ROW, *([_STATES] if states else [])]])


def read_summary(path: Path) -> ShardSummary:
    """The summary in a shard's footer.

    Raises:
        RecordError: the file is not a shard of labels.
    """
    check_regular(path)
    try:
        footer = (parquet.read_metadata(path).metadata or {})[_FOOTER_KEY.encode()]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise _SUMMARY_SCHEMA.refusal(str(path), f"it does not have its footer ({error})") from error
    return _SUMMARY_SCHEMA.parse(footer, str(path)).value


class ShardWriter:
    """Writes one shard. As a context manager: the file appears under its name at the end, and not at all after an error.

    Args:
        folder: the folder of the labels.
        number: the number of the shard.
        states: whether rows have states.

    Raises:
        WriteError: the shard cannot be written.
    """

    def __init__(self, folder: Path, number: int, *, states: bool) -> None:
        self._path = shard_path(folder, number)
        self._schema = schema(states)
        self._rows: list[LabelRow] = []
        self._bytes = 0
        self._counts = Counts()
        self._wrong: list[str] = []
        self._skipped: list[Skipped] = []

    def __enter__(self) -> ShardWriter:
        with ExitStack() as opened:
            file = opened.enter_context(opened.enter_context(whole(self._path)).open("wb"))
            self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")
            self._opened = opened.pop_all()
        return self

    def keep(self, rows: Sequence[LabelRow]) -> None:
        """Add the rows of one sample, one per image."""
        self._counts += Counts(asked=1, kept=1, rows=len(rows))
        self._rows += rows
        self._bytes += sum(values.nbytes for row in rows for values in (row.relevance, row.attention, row.states) if values is not None)
        if self._bytes > _BUFFER_BYTES:
            self._flush()

    def answered_wrong(self, sample: str) -> None:
        """Record a sample that gives no label because the model answered it wrong."""
        self._counts += Counts(asked=1, wrong=1)
        self._wrong.append(sample)

    def skip(self, sample: str, reason: str) -> None:
        """Record a sample that could not be used."""
        self._counts += Counts(asked=1, skipped=1)
        self._skipped.append(Skipped(sample, reason))

    @property
    def summary(self) -> ShardSummary:
        """The summary of the samples so far."""
        return ShardSummary(self._counts, tuple(self._wrong), tuple(self._skipped))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._opened:
            try:
                if error is not None:
                    raise error
                self._flush()
                self._writer.add_key_value_metadata({_FOOTER_KEY: json.dumps(asdict(self.summary), ensure_ascii=False)})
                self._writer.close()
            finally:
                self._writer.is_open = False  # else it would try again when it is garbage-collected

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(_table(self._rows, self._schema))
        self._rows, self._bytes = [], 0


def _settings(info: LabelsInfo) -> dict[str, Any]:
    """The settings that runs in one folder must share, apart from the model, as they would be after a round trip through JSON."""
    own = {"target": info.target, "gradients": info.gradients, "states": info.states, "shards": info.shards}
    return ANYTHING.of({**info.data, **info.choice, **own}, "the settings of these labels").raw


def _table(rows: Sequence[LabelRow], columns: pa.Schema) -> pa.Table:
    return pa.table([_column(name, [getattr(row, name) for row in rows], columns.field(name).type) for name in columns.names], columns)


def _column(name: str, values: list[Any], kind: pa.DataType) -> pa.Array:
    """Values as an Arrow array; numeric arrays do not become Python lists, which would take minutes."""
    if name not in ("relevance", "attention", "states"):
        return pa.array([list(map(list, value)) if name == "parts" else value for value in values], kind)
    flat = pa.array(np.concatenate([value.ravel() for value in values]))
    if values[0].ndim == 1:
        return pa.ListArray.from_arrays(_offsets(value.shape[0] for value in values), flat)
    inner = pa.ListArray.from_arrays(_offsets(value.shape[1] for value in values for _ in range(value.shape[0])), flat)
    return pa.ListArray.from_arrays(_offsets(value.shape[0] for value in values), inner)


def _offsets(lengths: Iterable[int]) -> pa.Array:
    return pa.array(np.cumsum([0, *lengths]), pa.int32())
