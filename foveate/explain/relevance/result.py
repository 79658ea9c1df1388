"""How much each visual token of a prompt mattered to an answer: `Relevance`, which can be saved as JSON and loaded."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import FailFast, Field
from torch import Tensor

from foveate.files.records import Amount, Count, RecordSchema
from foveate.files.report_form import GRID_CELLS
from foveate.files.report_form import Grid as GridRecord
from foveate.files.writing import write_whole
from foveate.view import Grid

__all__ = ["ImageRelevance", "Relevance", "Target"]

RELEVANCE_FORMAT = 1

Target = Literal["logit", "log_probability"]
"""The quantity that is explained for each answer token."""


@dataclass(frozen=True)
class _ImageRecord:
    """As `ImageRelevance.to_dict` writes it."""

    row: Count
    position: Count
    grid: GridRecord
    parts: Annotated[tuple[GridRecord, ...], FailFast(), Field(min_length=1, max_length=GRID_CELLS)]
    kind: Literal["image", "video"]
    tokens: Annotated[list[Annotated[list[Amount], FailFast(), Field(max_length=GRID_CELLS)]], FailFast()]


@dataclass(frozen=True)
class _RelevanceRecord:
    """As `Relevance.to_dict` writes it."""

    target: Target
    gradients: bool
    answers: list[Annotated[list[Count], FailFast()]]
    images: Annotated[list[_ImageRecord], FailFast()]


_SCHEMA: RecordSchema[_RelevanceRecord] = RecordSchema(
    "a foveate relevance", _RelevanceRecord, {"format": RELEVANCE_FORMAT}, "save one with Relevance.save", limit=2**29
)
_IMAGE: RecordSchema[_ImageRecord] = RecordSchema("a foveate relevance", _ImageRecord, limit=_SCHEMA.limit)


@dataclass(frozen=True, eq=False)
class ImageRelevance:
    """The relevance of one image's (or video's) tokens.

    Attributes:
        row: row of the batch.
        position: the image's index among the images of its row.
        grid: (t, h, w), frames, rows and columns of its tokens; (1, 1, n) if there are several parts.
        tokens: (a, n) float32 on the CPU, not negative: one row per answer token, columns in the order of the visual tokens, which is
            row-major over the grid. The unit is that of the target; only ratios within an answer token are meaningful.
        parts: (t, h, w) of each part of an image that is shown as several crops, in the order of its tokens; `(grid,)` unless given.
        kind: "image" or "video".
    """

    row: int
    position: int
    grid: Grid
    tokens: Tensor
    parts: tuple[Grid, ...] = ()
    kind: Literal["image", "video"] = "image"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", self.parts or (self.grid,))
        cells = math.prod(self.grid)
        if self.tokens.ndim != 2 or self.tokens.shape[1] != cells or sum(math.prod(part) for part in self.parts) != cells:
            raise ValueError(f"tokens of shape {tuple(self.tokens.shape)} do not fill grid {self.grid} with parts {self.parts}")

    @property
    def mean(self) -> Tensor:
        """(n,), the average over the answer's tokens."""
        return self.tokens.mean(0)

    def map(self, token: int | None = None) -> Tensor:
        """The relevance on the grid (t, h, w): for one answer token, or averaged over all of them."""
        return self._of(token).view(self.grid)

    def maps(self, token: int | None = None) -> tuple[Tensor, ...]:
        """Like `map`, with one (t, h, w) per part of an image that is shown as several crops."""
        sizes = [math.prod(part) for part in self.parts]
        return tuple(values.view(part) for values, part in zip(self._of(token).split(sizes), self.parts, strict=True))

    def _of(self, token: int | None) -> Tensor:
        return self.mean if token is None else self.tokens[token]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return {
            "row": self.row,
            "position": self.position,
            "kind": self.kind,
            "grid": list(self.grid),
            "parts": [list(part) for part in self.parts],
            "tokens": self.tokens.tolist(),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageRelevance:
        """The inverse of `to_dict`.

        Raises:
            RecordError: if `data` does not match, or its grid, parts and tokens contradict each other; the message names the key.
        """
        return cls._made(_IMAGE.of(data, "the relevance of an image").value, "the relevance of an image", "")

    @classmethod
    def _made(cls, found: _ImageRecord, where: str, key: str) -> ImageRelevance:
        cells = math.prod(found.grid)
        if sum(math.prod(part) for part in found.parts) != cells:
            raise _SCHEMA.refusal(where, f"{key}parts do not have the {cells} cells of grid {'x'.join(map(str, found.grid))}")
        wrong = next((number for number, values in enumerate(found.tokens) if len(values) != cells), None)
        if wrong is not None:
            raise _SCHEMA.refusal(
                where, f"{key}tokens[{wrong}] should have {cells} numbers, one for each cell, not {len(found.tokens[wrong])}"
            )
        tokens = torch.tensor(found.tokens, dtype=torch.float32).view(len(found.tokens), cells)
        return cls(found.row, found.position, found.grid, tokens, found.parts, found.kind)


@dataclass(frozen=True, eq=False)
class Relevance:
    """How much the visual tokens of a batch mattered to its answers.

    Attributes:
        images: one entry per image, in the order of rows and prompts.
        answers: per row (a,) long on the CPU: the token ids that were explained, without end of sequence and padding.
        target: the quantity that was explained of each answer token.
        gradients: whether attention was weighted by its gradient, or is attention alone.
    """

    images: tuple[ImageRelevance, ...]
    answers: tuple[Tensor, ...]
    target: Target = "logit"
    gradients: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return {
            "format": RELEVANCE_FORMAT,
            "target": self.target,
            "gradients": self.gradients,
            "answers": [answer.tolist() for answer in self.answers],
            "images": [image.to_dict() for image in self.images],
        }

    def to_json(self) -> str:
        """The relevance as one JSON document."""
        return json.dumps(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, whole or not at all.

        Raises:
            WriteError: it cannot be written; what was there before is unchanged.
        """
        write_whole(path, self.to_json())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Relevance:
        """The inverse of `to_dict`.

        Raises:
            RecordError: if `data` is not a relevance in a format that this version reads, or contradicts itself.
        """
        return cls._made(_SCHEMA.of(data, "this dictionary").value, "this dictionary")

    @classmethod
    def from_json(cls, text: str) -> Relevance:
        """The inverse of `to_json`.

        Raises:
            RecordError: as in `from_dict`, or `text` is not JSON.
        """
        return cls._made(_SCHEMA.parse(text, "this text").value, "this text")

    @classmethod
    def load(cls, path: str | Path) -> Relevance:
        """Read what `save` wrote.

        Raises:
            RecordError: as in `from_json`, or the file is missing, cannot be read, is not a regular file, or is too large.
        """
        document = _SCHEMA.read(path)
        return cls._made(document.value, document.where)

    @classmethod
    def _made(cls, found: _RelevanceRecord, where: str) -> Relevance:
        for number, image in enumerate(found.images):
            if image.row >= len(found.answers):
                raise _SCHEMA.refusal(where, f"images[{number}].row is {image.row}, but there are {len(found.answers)} answers")
            if len(image.tokens) != len(found.answers[image.row]):
                expected = f"one for each token of answers[{image.row}]"
                raise _SCHEMA.refusal(
                    where, f"images[{number}].tokens should have {len(found.answers[image.row])} rows, {expected}, not {len(image.tokens)}"
                )
        images = tuple(ImageRelevance._made(image, where, f"images[{number}].") for number, image in enumerate(found.images))
        answers = tuple(torch.tensor(answer, dtype=torch.long) for answer in found.answers)
        return cls(images, answers, found.target, found.gradients)
