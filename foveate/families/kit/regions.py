"""Where an image's tokens lie in the picture that its processor was given: `Region`, and the question to a family: `RegionRequest`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from foveate.errors import InputError, UnsupportedError
from foveate.view import Grid

__all__ = ["Box", "ProcessedImage", "Region", "RegionRequest", "Regions", "Request", "Span", "cells", "placed"]

Span = tuple[float, float]
"""From one edge to the other, in pixels of the picture; negative or beyond the picture if a processor pads."""


class Box(NamedTuple):
    """A rectangle in pixels of a picture; it may extend beyond the picture if a processor pads."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels from top to bottom."""
        return self.bottom - self.top


@dataclass(frozen=True)
class Region:
    """Where the tokens of one part of an image lie in the picture that the processor was given.

    The cell of the token in row r and column c is `rows[r]` x `columns[c]`. In most models all cells have one size and are adjacent. They
    are smaller at an edge where a model pads with zeros, and have gaps between them if a tower does not see the last pixels of a tile.

    Args:
        rows: (top, bottom) of each row of tokens, in pixels of the picture.
        columns: (left, right) of each column.
        shows: "picture" if the image has no other part, otherwise the "whole" picture or a "crop" of it.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    shows: Literal["picture", "whole", "crop"] = "picture"

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.rows), len(self.columns)

    @cached_property
    def box(self) -> Box:
        """The bounding box of all cells."""
        return Box(self.columns[0][0], self.rows[0][0], self.columns[-1][1], self.rows[-1][1])

    def cell(self, row: int, column: int) -> Box:
        """The box of one token."""
        (left, right), (top, bottom) = self.columns[column], self.rows[row]
        return Box(left, top, right, bottom)


Regions = tuple[Region, ...]
"""One region per part of an image, in the order of the parts."""


@dataclass(frozen=True)
class RegionRequest:
    """The question to a family where the tokens of one image lie.

    Attributes:
        config: the model's configuration.
        processor: the model's processor, as loaded.
        size: (width, height) of the picture, or of a video's frames, as given to the processor.
        parts: (t, h, w) of each of the image's parts, as in reports.
        video: whether the tokens are a video's, not an image's.
        pictures: how many images the prompt has.
    """

    config: Any
    processor: Any
    size: tuple[int, int]
    parts: tuple[Grid, ...]
    video: bool = False
    pictures: int = 1

    @property
    def settings(self) -> Any:
        """The part of the processor that handles pictures, or videos, with its settings.

        Raises:
            UnsupportedError: the processor has no such part.
        """
        if not self.video:
            return getattr(self.processor, "image_processor", None) or self.processor
        found = getattr(self.processor, "video_processor", None)
        if found is None:
            raise UnsupportedError(f"{type(self.processor).__name__} has no video processor, so it is unknown where a video's tokens lie")
        return found

    @property
    def only(self) -> tuple[int, int]:
        """(rows, columns) of an image that has one part.

        Raises:
            InputError: it has several.
        """
        if len(self.parts) != 1:
            raise self.misfit("one part")
        return self.parts[0][1:]

    def misfit(self, expected: str) -> InputError:
        """The error for parts that these settings do not produce."""
        width, height = self.size
        found = ", ".join("x".join(map(str, part)) for part in self.parts)
        return InputError(
            f"{type(self.settings).__name__} makes {expected} of a picture of {width} x {height} pixels, but the image has parts {found}; "
            f"pass the picture and the processor that the model was given, with the same settings"
        )


Request = RegionRequest
"""The old name of `RegionRequest`; removed in foveate 1.0."""


@dataclass(frozen=True)
class ProcessedImage:
    """A picture after processing, before it is cut into patches: `box` of the original became `pixels` (width, height)."""

    box: Box
    pixels: tuple[int, int]

    def region(self, request: RegionRequest, grid: tuple[int, int], cell: float | None = None, end: int | None = None) -> Region:
        """The region of tokens that start at the upper left and are `cell` pixels wide and high; the last ones end at `end`.

        Args:
            request: for messages.
            grid: (rows, columns).
            cell: pixels per token after processing; `None`: the tokens fill the picture.
            end: pixel from which the tower sees nothing, if that is before the end of the last cell; by default it sees everything.

        Raises:
            InputError: this number of pixels does not give this number of tokens.
        """
        rows, columns = grid
        across = _axis(request, self.pixels[0], columns, cell, end)
        down = _axis(request, self.pixels[1], rows, cell, end)
        return Region(
            placed(down, self.box.top, self.box.height / self.pixels[1]), placed(across, self.box.left, self.box.width / self.pixels[0])
        )


def _axis(request: RegionRequest, pixels: int, count: int, cell: float | None, end: int | None) -> list[Span]:
    size = pixels / count if cell is None else cell
    last = pixels if end is None else end
    if not (count - 1) * size < last <= pixels or size * (count + 1) <= last + 1e-6:
        raise request.misfit(f"{pixels} pixels, which are {last / size:.1f} tokens,")
    return [(start, min(stop, last)) for start, stop in cells(count, size)]


def cells(count: int, size: float) -> list[Span]:
    """`count` adjacent spans of one size."""
    return [(number * size, (number + 1) * size) for number in range(count)]


def placed(spans: Sequence[Span], start: float, scale: float) -> tuple[Span, ...]:
    """Convert spans after processing to spans of the original picture: `scale` original pixels per pixel, from `start`."""
    return tuple((start + low * scale, start + high * scale) for low, high in spans)
