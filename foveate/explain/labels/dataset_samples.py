"""Samples from a data set: on the Hugging Face hub, in a folder, a Parquet or JSON-lines file, or a folder of images."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from foveate.errors import InputError
from foveate.explain.labels.pictures import read_pictures, read_video
from foveate.explain.labels.samples import LabelSample

__all__ = ["Columns", "DatasetSamples", "open_dataset"]

_FILES = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".ndjson": "json"}
_SAVED = ("state.json", "dataset_dict.json")
"""Files by which a folder written by `save_to_disk` is recognised."""

_USUAL = {"image": ("image", "images"), "video": ("video", "videos"), "question": ("question",), "answer": ("answer", "answers")}
_OPTIONAL = ("image", "video", "answer")


@dataclass(frozen=True)
class Columns:
    """The names of the columns; `None` means the usual name, or no column if the data set has none of that name.

    Attributes:
        image: one picture or a list of pictures.
        video: a video file, or a list of frames.
        question: text.
        answer: one acceptable answer or a list of them.
    """

    image: str | None = None
    video: str | None = None
    question: str | None = None
    answer: str | None = None


class DatasetSamples:
    """One sample per row.

    Args:
        data: the rows.
        origin: the name of the data, and the folder that relative paths start from.
        columns: the names of the columns.
        limit: use only this many rows.
        seed: shuffle with this seed first; `None` keeps the order.
        frames: how many frames of a video are shown.

    Raises:
        InputError: a column is missing, or there is no row.
    """

    def __init__(
        self,
        data: datasets.Dataset,
        origin: DataOrigin,
        columns: Columns,
        *,
        limit: int | None = None,
        seed: int | None = None,
        frames: int = 8,
    ) -> None:
        self._columns = _find(columns, data.column_names, origin.name)
        data = data.select_columns(sorted({column for column in vars(self._columns).values() if column is not None}))
        order = data.shuffle(seed=seed) if seed is not None else data
        self._data = _undecoded(order.select(range(min(limit, len(order)))) if limit is not None else order)
        if not len(self._data):
            raise InputError(f"{origin.name} has no rows; name a data set or a split that has some")
        self._origin, self._seed, self._frames = origin, seed, frames

    def __len__(self) -> int:
        return len(self._data)

    def name(self, index: int) -> str:
        """The row's number, after shuffling."""
        return f"{index:09d}"

    def read(self, index: int) -> LabelSample:
        """Decode one row."""
        row = self._data[index]
        names = self._columns
        question = row[names.question]
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"the question is {'empty' if isinstance(question, str) else f'not a text but {question!r:.60}'}")
        references = _references(row[names.answer]) if names.answer else ()
        image, video = (row[column] if column else None for column in (names.image, names.video))
        if image is not None and video is not None:
            raise InputError("there are both an image and a video; a sample is about one of them")
        if video is not None:
            shown = read_video(video, self._frames, self._origin.folder)
            return LabelSample(question.strip(), shown.images, references, shown)
        if image is None:
            raise InputError("there is no image")
        return LabelSample(question.strip(), read_pictures(image, self._origin.folder), references)

    def describe(self) -> Mapping[str, Any]:
        """The origin of the rows, and a hash over their texts."""
        columns = {f"{kind} column": column for kind, column in vars(self._columns).items()}
        frames = {"frames": self._frames} if self._columns.video else {}
        order = {"data": self._origin.name, "split": self._origin.split, "seed": self._seed, "samples": len(self)}
        return {**order, **columns, **frames, "hash of the texts": self._hash()}

    def _hash(self) -> str:
        names = [name for name in (self._columns.question, self._columns.answer) if name]
        digest = hashlib.sha256()
        for row in self._data.select_columns(names):
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class DataOrigin:
    """The origin of data: their name, the folder that relative paths start from, and the split."""

    name: str
    folder: Path
    split: str


def open_dataset(name: str, split: str, subset: str | None = None) -> tuple[datasets.Dataset, DataOrigin]:
    """Open the data set that a user names.

    Args:
        name: a Parquet or JSON-lines file, a folder (of such files, of images with `metadata.jsonl`, or written by
            `save_to_disk`), or an id on the Hugging Face hub.
        split: which split; a single file has only `train`.
        subset: which configuration of a data set on the hub.

    Raises:
        InputError: there is none, it cannot be read, or it has no such split.
    """
    datasets.disable_progress_bars()
    path = Path(name).expanduser()
    if not path.exists() and (name.startswith((".", "/", "~")) or path.suffix.lower() in _FILES):
        raise InputError(f"no such data: {name}; name a data set on the hub, a folder, or a file ending in {', '.join(_FILES)}")
    try:
        data = _load(name, path, split, subset)
    except Exception as error:  # loaders raise anything, from parser errors to network errors
        reason = str(error.__cause__ or error).strip().splitlines()
        raise InputError(f"cannot read the data {name!r}: {reason[0] if reason else type(error).__name__}") from error
    folder = path if path.is_dir() else path.parent
    return data, DataOrigin(name, folder.resolve() if path.exists() else Path.cwd(), split)


def _load(name: str, path: Path, split: str, subset: str | None) -> datasets.Dataset:
    if path.is_file():
        kind = _FILES.get(path.suffix.lower())
        if kind is None:
            raise InputError(f"a file must end in {', '.join(_FILES)}, not {path.suffix or path.name!r}")
        return datasets.load_dataset(kind, data_files=str(path), split=split)
    if path.is_dir() and any((path / mark).is_file() for mark in _SAVED):
        saved = datasets.load_from_disk(str(path))
        if isinstance(saved, datasets.Dataset):
            return saved
        if split not in saved:
            raise InputError(f"there is no split {split!r}; there is {', '.join(saved)}")
        return saved[split]
    return datasets.load_dataset(str(path) if path.is_dir() else name, subset, split=split)


def _find(asked: Columns, there: list[str], name: str) -> Columns:
    found: dict[str, str | None] = {}
    for kind, usual in _USUAL.items():
        wanted: str | None = getattr(asked, kind)
        found[kind] = wanted if wanted is not None else next((column for column in usual if column in there), None)
        if (wanted is not None and wanted not in there) or (found[kind] is None and kind not in _OPTIONAL):
            missing = wanted or usual[0]
            near = difflib.get_close_matches(missing, there, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"{name} has no column {missing!r}: {hint}it has {', '.join(there)}; name your {kind} column (Columns.{kind})")
    if found["image"] is None and found["video"] is None:
        raise InputError(
            f"{name} has neither an image nor a video column; it has {', '.join(there)}; name your image column (Columns.image)"
        )
    return Columns(**found)


def _undecoded(data: datasets.Dataset) -> datasets.Dataset:
    """The data with pictures and videos left encoded, so that a damaged one spoils only its own sample."""
    return data.cast(datasets.Features({name: _raw(feature) for name, feature in data.features.items()}))


def _raw(feature: Any) -> Any:
    if isinstance(feature, datasets.Image | datasets.Video):
        return type(feature)(decode=False)
    if isinstance(feature, datasets.List):
        return datasets.List(_raw(feature.feature), feature.length)
    return feature


def _references(value: Any) -> tuple[str, ...]:
    """The acceptable answers in a cell: a text, a number, or a list of them."""
    if value is None:
        return ()
    given = value if isinstance(value, list | tuple) else [value]
    if not all(isinstance(one, str | int | float) for one in given):
        raise InputError(f"the answer is neither a text nor a list of texts: {value!r:.80}")
    return tuple(str(one).lower() if isinstance(one, bool) else str(one) for one in given)
