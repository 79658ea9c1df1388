"""Set panels, captions and legend on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageChops, ImageDraw, ImageFont

from foveate.draw.cells import hatch

__all__ = ["LegendEntry", "Tile", "lay_out"]

_INK = (28, 28, 34)
_SOFT = (96, 96, 106)
_PAPER = (255, 255, 255)
_GAP = 28
_TITLE, _TEXT = 25, 20
_SWATCH = 20
_CAPTION = 230
"""Least width of a caption in pixels, however narrow its panel."""
_NARROWEST = 620
"""Least width of the legend in pixels."""


@dataclass(frozen=True)
class Tile:
    """A painted panel and the text above it."""

    image: Image.Image
    title: str
    counts: str = ""


@dataclass(frozen=True)
class LegendEntry:
    """An entry of the legend: its text, and the colour of its swatch; `None` for an empty frame."""

    text: str
    colour: tuple[int, int, int] | None
    hatched: bool = False


def lay_out(rows: Sequence[Sequence[Tile]], legend: Sequence[LegendEntry], notes: Sequence[str]) -> Image.Image:
    """The page: tiles in rows, then the legend and the notes.

    Args:
        rows: tiles from top to bottom; those of a row are side by side.
        legend: what the colours mean.
        notes: sentences below the legend.
    """
    blocks = [_blocks(row) for row in rows]
    inner = max(_NARROWEST, *(sum(block.width for block in row) + _GAP * (len(row) - 1) for row in blocks))
    below = [_legend(legend, inner)] + [_paragraph(note, inner) for note in notes]
    blocks += [[block] for block in below]
    heights = [max(block.height for block in row) for row in blocks]
    gaps = [_GAP] * len(rows) + [10] * len(below)
    page = Image.new("RGB", (inner + 2 * _GAP, sum(heights) + sum(gaps) + _GAP), _PAPER)
    y = _GAP
    for row, height, gap in zip(blocks, heights, gaps, strict=True):
        x = _GAP
        for block in row:
            page.paste(block, (x, y))
            x += block.width + _GAP
        y += height + gap
    return page


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _blocks(row: Sequence[Tile]) -> list[Image.Image]:
    """The tiles of a row with their captions; all pictures begin at the same height."""
    captions = []
    for tile in row:
        width = max(tile.image.width, _CAPTION)
        captions.append((width, _wrap(tile.title, width, _TITLE), _wrap(tile.counts, width, _TEXT)))
    head = max(len(title) * (_TITLE + 8) + len(counts) * (_TEXT + 7) + 8 for _, title, counts in captions)
    return [_block(tile.image, head, *caption) for tile, caption in zip(row, captions, strict=True)]


def _block(image: Image.Image, head: int, width: int, title: Sequence[str], counts: Sequence[str]) -> Image.Image:
    block = Image.new("RGB", (width, head + image.height), _PAPER)
    pen = ImageDraw.Draw(block)
    y = 0
    for line in title:
        for shift in (0, 0.7):  # the bundled font has no bold weight
            pen.text((shift, y), line, font=_font(_TITLE), fill=_INK)
        y += _TITLE + 8
    for line in counts:
        pen.text((0, y), line, font=_font(_TEXT), fill=_SOFT)
        y += _TEXT + 7
    block.paste(image, (0, head))
    return block


def _wrap(text: str, width: int, size: int) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _font(size).getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _paragraph(text: str, width: int) -> Image.Image:
    lines = _wrap(text, width, _TEXT)
    block = Image.new("RGB", (width, len(lines) * (_TEXT + 7)), _PAPER)
    pen = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        pen.text((0, number * (_TEXT + 7)), line, font=_font(_TEXT), fill=_SOFT)
    return block


def _legend(marks: Sequence[LegendEntry], width: int) -> Image.Image:
    """Swatches with their texts, on as many lines as they need."""
    places: list[tuple[int, int]] = []
    x = y = 0
    for mark in marks:
        needed = _SWATCH + 9 + round(_font(_TEXT).getlength(mark.text))
        if x and x + needed > width:
            x, y = 0, y + _SWATCH + 10
        places.append((x, y))
        x += needed + 30
    block = Image.new("RGB", (width, y + _SWATCH + 6), _PAPER)
    pen = ImageDraw.Draw(block)
    for mark, (left, top) in zip(marks, places, strict=True):
        block.paste(_swatch(mark), (left, top + 1))
        pen.text((left + _SWATCH + 9, top - 1), mark.text, font=_font(_TEXT), fill=_INK)
    return block


def _swatch(mark: LegendEntry) -> Image.Image:
    swatch = Image.new("RGB", (_SWATCH, _SWATCH), mark.colour or _PAPER)
    if mark.hatched:
        swatch = ImageChops.add(swatch, hatch(swatch.size, 1))
    pen = ImageDraw.Draw(swatch)
    pen.rectangle((0, 0, _SWATCH - 1, _SWATCH - 1), outline=(30, 30, 36), width=1 if mark.colour else 2)
    return swatch
