"""Labels as training reads them: one image at a time, without loading the folder into memory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from foveate.errors import InputError
from foveate.explain.compressor.network import CompressorInput
from foveate.explain.labels.label_files import LabelsInfo, read_info, shards
from foveate.files.records import check_regular

__all__ = ["LabelledImage", "LabelDataset", "held_out"]

_TWO_NUMBERS = re.compile(r"(.*-\d+)-\d+")


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """One image: the network's input, and the relevance (n,) of its tokens."""

    inputs: CompressorInput
    relevance: Tensor

    def to(self, device: torch.device) -> LabelledImage:
        """The same on another device."""
        states = self.inputs.states
        inputs = CompressorInput(self.inputs.attention.to(device), self.inputs.parts, None if states is None else states.to(device))
        return LabelledImage(inputs, self.relevance.to(device))


class LabelDataset(Dataset[LabelledImage]):
    """The rows of a folder of labels; indexing reads one from the disk.

    Args:
        folder: what `foveate labels` wrote.
        states: read the tokens' states too.

    Raises:
        InputError: the folder holds no labels, no finished shard, no states although they are requested, or numbers that are not finite.
            Relevance is checked at once, attention and states when their row is read.
    """

    def __init__(self, folder: Path, states: bool) -> None:
        self.info: LabelsInfo = read_info(folder)
        if states and not self.info.states:
            raise InputError(f"the labels in {folder} have no states; make labels with states=True, or train with states=False")
        files = shards(folder)
        if not files:
            raise InputError(f"{folder} holds no finished shard of labels; let `foveate labels` continue")
        self._rows: Any = _load(files, ["id", "parts", "relevance", "attention", *(["states"] if states else [])])
        self._states = states
        if not len(self._rows):
            raise InputError(f"the labels in {folder} hold no image: no sample was answered correctly, see skipped.jsonl there")
        self._folder = folder
        self.ids: list[str] = self._rows.with_format(None)["id"][:]
        if len(self[0].inputs.attention) != self.info.heads:
            raise InputError(f"{folder} holds attention of {len(self[0].inputs.attention)} heads, and labels.json says {self.info.heads}")
        sums = _sums(self._rows)
        spoiled = next((place for place, total in enumerate(sums) if not math.isfinite(total)), None)
        if spoiled is not None:
            raise self._not_finite("relevance", spoiled)
        self._blank = {place for place, total in enumerate(sums) if total <= 0}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> LabelledImage:
        row = self._rows[index]
        relevance = _numbers(row["relevance"], 1)
        parts = tuple((t, h, w) for t, h, w in row["parts"].to_pylist()[0])
        read = {name: _numbers(row[name], 2) for name in ("attention", *(["states"] if self._states else []))}
        for name, values in read.items():
            if not bool(torch.isfinite(values).all()):
                raise self._not_finite(name, index)
        return LabelledImage(CompressorInput(read["attention"], parts, read.get("states")), relevance.float())

    def _not_finite(self, what: str, place: int) -> InputError:
        return InputError(
            f"the {what} of {self.ids[place]!r} in {self._folder} is not finite, so nothing can be learned from it; remove its shard, "
            f"and make it again with `foveate labels`"
        )

    def split(self, share: float) -> tuple[list[int], list[int]]:
        """The indices of the training rows and of the held-out rows, about that share of all; rows without any relevance are in neither.

        Raises:
            InputError: one of the two would be empty.
        """
        kept_out = {place: held_out(name, share) for place, name in enumerate(self.ids) if place not in self._blank}
        training = [place for place, out in kept_out.items() if not out]
        validation = [place for place, out in kept_out.items() if out]
        if not training or not validation:
            raise InputError(f"{len(self)} labelled images are too few to hold out {share:.0%} of them; label more")
        return training, validation


def held_out(name: str, share: float) -> bool:
    """Whether a row is held out, by a hash of its sample: nothing else changes that, not even more labels.

    A row's name is SAMPLE/POSITION. Several images of a sample stay together, and so do samples whose names end in two numbers and differ
    only in the second, such as several questions about one scene.
    """
    sample = name.rpartition("/")[0] or name
    several = _TWO_NUMBERS.fullmatch(sample)
    digest = blake2b((several[1] if several else sample).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def _load(files: list[Path], columns: list[str]) -> Any:
    import datasets

    datasets.disable_progress_bars()
    for file in files:
        check_regular(file)
    try:
        rows = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train", columns=columns)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"the labels in {files[0].parent} cannot be read: {error}; remove the damaged shard and make it again") from error
    return rows.with_format("arrow")


def _sums(rows: Any) -> list[float]:
    """The sum of each row's relevance."""
    column = rows["relevance"]
    return [float(own.values.to_numpy().sum()) for chunk in column.chunks for own in chunk]


def _numbers(column: Any, dimensions: int) -> Tensor:
    """A one-row column that holds a list, or a list of lists of equal length."""
    values, sizes = column.combine_chunks(), []
    for _ in range(dimensions):
        sizes.append(len(values.flatten()))
        values = values.flatten()
    shape = (sizes[-1],) if dimensions == 1 else (sizes[0], sizes[1] // sizes[0])
    return torch.from_numpy(values.to_numpy(zero_copy_only=False).copy()).view(shape)
