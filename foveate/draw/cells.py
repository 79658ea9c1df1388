"""Paint one panel: a picture under its token grid."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageOps

from foveate.errors import InputError
from foveate.families import Box, Region
from foveate.families.kit.regions import Span
from foveate.plan import DROPPED

__all__ = [
    "GRAY", "PADDING", "PINK", "SHARP", "UNSEEN", "Canvas", "cell_box", "cell_image", "check_size", "faded", "finished", "hatch", "outline",
    "paint", "shade_for", "stretched", "window_box",
]  # fmt: skip

PINK = (255, 64, 156)
GRAY = (150, 150, 154)
_LIGHT_GRAY = (226, 226, 230)
UNSEEN = (58, 58, 66)
PADDING = (122, 116, 104)  # the mean colour that processors pad with
_DEEP_PINK = (206, 0, 96)
_FADE = 0.74  # how far dropped tokens fade towards gray
SHARP = 3  # painted this many times larger, then scaled down, because Pillow's lines are not anti-aliased
_PANEL_PIXELS, _PAGE_PIXELS = 12_000_000, 150_000_000
_MARGIN = 0.5  # at each end, at most this share of the seen box's longer side is shown of what the model did not see


@dataclass(frozen=True)
class Canvas:
    """Maps a picture, and the tokens that lie in it, to pixels of the panel.

    Attributes:
        region: where the tokens lie, in pixels of the picture.
        size: (width, height) of the picture.
        across: where the columns of tokens begin and the last one ends, in pixels of the window.
        down: the same for rows.
    """

    region: Region
    size: tuple[int, int]
    across: tuple[int, ...]
    down: tuple[int, ...]

    @classmethod
    def fit(cls, region: Region, size: tuple[int, int], side: int) -> Canvas:
        """A canvas whose window of tokens is about `side` pixels on its longer side, with at least 6 pixels per cell."""
        scale = side / max(_length(region.columns), _length(region.rows))
        return cls(region, size, _edges(region.columns, scale), _edges(region.rows, scale))

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.region.grid

    @cached_property
    def cell(self) -> tuple[int, int]:
        """(width, height) of the smallest cell."""
        across, down = (min(end - start for start, end in itertools.pairwise(edges)) for edges in (self.across, self.down))
        return across, down

    @cached_property
    def window(self) -> tuple[int, int]:
        """(width, height) of all tokens on the panel."""
        return self.across[-1], self.down[-1]

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Pixels of the panel per pixel of the picture, across and down."""
        return self.window[0] / _length(self.region.columns), self.window[1] / _length(self.region.rows)

    @cached_property
    def shown(self) -> Box:
        """What the panel shows, in pixels of the picture: what the model saw, and some of what surrounds it."""
        box = self.region.box
        room = _MARGIN * max(box.width, box.height)
        return Box(
            min(box.left, max(0.0, box.left - room)),
            min(box.top, max(0.0, box.top - room)),
            max(box.right, min(float(self.size[0]), box.right + room)),
            max(box.bottom, min(float(self.size[1]), box.bottom + room)),
        )

    @cached_property
    def origin(self) -> tuple[int, int]:
        """Where the window of tokens begins on the panel."""
        box = self.region.box
        return round((box.left - self.shown.left) * self.scale[0]), round((box.top - self.shown.top) * self.scale[1])

    @cached_property
    def panel(self) -> tuple[int, int]:
        """(width, height) of the whole panel."""
        box = self.region.box
        right, bottom = (self.shown.right - box.right) * self.scale[0], (self.shown.bottom - box.bottom) * self.scale[1]
        return self.origin[0] + self.window[0] + round(right), self.origin[1] + self.window[1] + round(bottom)

    @property
    def trimmed(self) -> bool:
        """Whether the picture extends beyond the panel."""
        shown = self.shown
        return shown.left > 0 or shown.top > 0 or shown.right < self.size[0] or shown.bottom < self.size[1]

    @property
    def unseen(self) -> bool:
        """Whether the panel shows something that the model did not see."""
        return self.panel != self.window

    @property
    def bordered(self) -> bool:
        """Whether tokens lie beyond the picture, in borders that the processor added."""
        box = self.region.box
        return box.left < -0.5 or box.top < -0.5 or box.right > self.size[0] + 0.5 or box.bottom > self.size[1] + 0.5

    @property
    def gaps(self) -> bool:
        """Whether there are strips between the tokens that no token covers; the panel omits them."""
        return any(len(_runs(spans, edges)) > 1 for spans, edges in ((self.region.columns, self.across), (self.region.rows, self.down)))


def _length(spans: Sequence[Span]) -> float:
    return sum(end - start for start, end in spans)


def _edges(spans: Sequence[Span], scale: float) -> tuple[int, ...]:
    return tuple(itertools.accumulate((max(6, round(round((end - start) * scale, 6))) for start, end in spans), initial=0))


def _runs(spans: Sequence[Span], edges: Sequence[int]) -> list[tuple[Span, tuple[int, int]]]:
    """Runs of adjacent cells, in the picture and in the window."""
    found: list[tuple[Span, tuple[int, int]]] = []
    for (start, end), (first, last) in zip(spans, itertools.pairwise(edges), strict=True):
        if found and abs(start - found[-1][0][1]) < 1e-3 * (end - start):
            found[-1] = ((found[-1][0][0], end), (found[-1][1][0], last))
        else:
            found.append(((start, end), (first, last)))
    return found


def check_size(canvases: Sequence[Canvas], panels: int) -> None:
    """Check that a page can be painted before memory is allocated for it: a grid from a file may have any shape.

    Args:
        canvases: those of one row of panels.
        panels: how many such rows there are.

    Raises:
        InputError: a panel or the page would have too many pixels.
    """
    areas = [canvas.panel[0] * canvas.panel[1] for canvas in canvases]
    if max(areas) > _PANEL_PIXELS or panels * sum(areas) > _PAGE_PIXELS:
        rows, columns = canvases[areas.index(max(areas))].grid
        raise InputError(
            f"{panels} picture(s) of a grid of {rows} x {columns} tokens would have {panels * sum(areas) / 1e6:.0f} megapixels; "
            f"a page may have {_PAGE_PIXELS / 1e6:.0f}, and one panel {_PANEL_PIXELS / 1e6:.0f}"
        )


def shade_for(picture: Image.Image, box: Box) -> tuple[int, int, int]:
    """The gray that dropped tokens fade to: the usual one, or a light one if much of the picture already looks like faded tokens."""
    whole_pixels = (math.floor(box.left), math.floor(box.top), math.ceil(box.right), math.ceil(box.bottom))
    tones = ImageOps.grayscale(picture).crop(whole_pixels).histogram()

    def share_alike(shade: tuple[int, int, int]) -> float:
        darkest = round(_FADE * shade[0])
        return sum(tones[darkest : darkest + round((1 - _FADE) * 255)]) / sum(tones)

    usual = share_alike(GRAY)
    return _LIGHT_GRAY if usual > 0.12 and share_alike(_LIGHT_GRAY) < usual / 2 else GRAY


def faded(shade: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour of a dropped token of medium tone, for the legend."""
    red, green, blue = (round(_FADE * part + (1 - _FADE) * 100) for part in shade)
    return red, green, blue


def paint(
    picture: Image.Image, canvas: Canvas, target: Sequence[int], shade: tuple[int, int, int], *, lines: bool, grid: bool
) -> Image.Image:
    """Paint one panel.

    Args:
        picture: RGB, of size `canvas.size`.
        canvas: where things lie.
        target: per cell, row-major: its own index if it stays, the index of another cell (which may lie beyond this grid, in another
            frame) if it is merged, -1 if it is dropped.
        shade: the gray that dropped cells fade to, from `shade_for`.
        lines: draw a line from each merged cell to the cell that it was merged into.
        grid: draw the grid.
    """
    stays = [goal == cell for cell, goal in enumerate(target)]
    merged = [goal not in (cell, DROPPED) for cell, goal in enumerate(target)]
    dropped = [goal == DROPPED for goal in target]
    sheet = stretched(picture, canvas)
    window = _tokens(sheet.crop(window_box(canvas)), canvas, merged, dropped, shade)
    pen = ImageDraw.Draw(window, "RGBA")
    if grid:
        _grid(pen, canvas)
    if any(dropped) or any(merged):
        outline(pen, canvas, stays)
    if lines and any(merged):
        _merge_lines(pen, canvas, target, merged)
    return finished(sheet, window, canvas)


def finished(sheet: Image.Image, window: Image.Image, canvas: Canvas) -> Image.Image:
    """The panel at its own size: `window` placed on `sheet`, both at painting size, with what the model did not see darkened."""
    if canvas.unseen:
        sheet = _dim(sheet)
    sheet.paste(window, window_box(canvas)[:2])
    if canvas.unseen:
        _frame(ImageDraw.Draw(sheet), window_box(canvas))
    return sheet.resize(canvas.panel, Image.Resampling.BOX)


def _frame(pen: ImageDraw.ImageDraw, window: tuple[int, int, int, int]) -> None:
    width = 2 * SHARP
    left, top, right, bottom = window
    pen.rectangle((left - width, top - width, right + width - 1, bottom + width - 1), outline="white", width=width)


def window_box(canvas: Canvas) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the seen box on the panel, at painting size."""
    left, top = canvas.origin[0] * SHARP, canvas.origin[1] * SHARP
    return left, top, left + canvas.window[0] * SHARP, top + canvas.window[1] * SHARP


def stretched(picture: Image.Image, canvas: Canvas) -> Image.Image:
    """What the panel shows of the picture, at painting size; borders that a processor adds are hatched gray."""
    sheet = Image.new("RGB", (canvas.panel[0] * SHARP, canvas.panel[1] * SHARP), PADDING)
    if canvas.bordered:
        sheet = ImageChops.add(sheet, hatch(sheet.size, SHARP))
    shown, origin, panel = canvas.shown, canvas.origin, canvas.panel
    across = _strips(_runs(canvas.region.columns, canvas.across), origin[0], panel[0], (shown.left, shown.right))
    down = _strips(_runs(canvas.region.rows, canvas.down), origin[1], panel[1], (shown.top, shown.bottom))
    for (left, right), (first, last) in across:
        for (top, bottom), (upper, lower) in down:
            _put(picture, Box(left, top, right, bottom), sheet, Box(first * SHARP, upper * SHARP, last * SHARP, lower * SHARP))
    return sheet


def _strips(runs: Sequence[tuple[Span, tuple[int, int]]], origin: int, panel: int, shown: Span) -> list[tuple[Span, tuple[int, int]]]:
    """The runs of tokens and what lies before and after them, as spans of the picture and of the panel; one strip if nothing is omitted."""
    own = [(span, (first + origin, last + origin)) for span, (first, last) in runs]
    if len(own) == 1:
        return [(shown, (0, panel))]
    before = ((shown[0], own[0][0][0]), (0, own[0][1][0]))
    after = ((own[-1][0][1], shown[1]), (own[-1][1][1], panel))
    return [(span, place) for span, place in (before, *own, after) if place[1] > place[0] and span[1] > span[0]]


def _put(picture: Image.Image, part: Box, sheet: Image.Image, place: Box) -> None:
    """Stretch a part of the picture to a place on the sheet; whatever lies beyond the picture is unchanged."""
    right, bottom = (float(edge) for edge in picture.size)
    inside = Box(max(0.0, part.left), max(0.0, part.top), min(right, part.right), min(bottom, part.bottom))
    if inside.width <= 0 or inside.height <= 0:
        return
    across, down = place.width / part.width, place.height / part.height
    left, top = round((inside.left - part.left) * across), round((inside.top - part.top) * down)
    size = max(1, round((inside.right - part.left) * across) - left), max(1, round((inside.bottom - part.top) * down) - top)
    sheet.paste(picture.resize(size, Image.Resampling.BICUBIC, box=inside), (int(place.left) + left, int(place.top) + top))


def _tokens(
    window: Image.Image, canvas: Canvas, merged: Sequence[bool], dropped: Sequence[bool], shade: tuple[int, int, int]
) -> Image.Image:
    if any(dropped):
        gray = ImageOps.grayscale(window).convert("RGB")
        pale = Image.blend(gray, Image.new("RGB", window.size, shade), _FADE)
        window = Image.composite(pale, window, _mask(dropped, canvas))
    if any(merged):
        tinted = ImageOps.colorize(ImageOps.grayscale(window), (178, 20, 104), (255, 200, 226), mid=PINK)
        window = Image.composite(tinted, window, _mask(merged, canvas))
    return window


def _mask(chosen: Sequence[bool], canvas: Canvas) -> Image.Image:
    return cell_image([255 if yes else 0 for yes in chosen], canvas)


def cell_image(values: Sequence[int] | Sequence[Sequence[int]], canvas: Canvas) -> Image.Image:
    """One value or colour per cell, row by row, as an image of the window at painting size."""
    rows, columns = canvas.grid
    pixels = np.asarray(values, dtype=np.uint8).reshape(rows, columns, -1)
    high, wide = (SHARP * np.diff(edges) for edges in (canvas.down, canvas.across))
    large = pixels.repeat(high, 0).repeat(wide, 1)
    return Image.fromarray(large if large.shape[2] > 1 else large[..., 0])


def _grid(pen: ImageDraw.ImageDraw, canvas: Canvas) -> None:
    width, height = (SHARP * edge for edge in canvas.window)
    faint = 70 if min(canvas.cell) >= 12 else 40
    for x in (SHARP * edge for edge in canvas.across[1:-1]):
        pen.line((x, 0, x, height), fill=(255, 255, 255, faint), width=SHARP)
        pen.line((x + SHARP, 0, x + SHARP, height), fill=(0, 0, 0, faint), width=SHARP)
    for y in (SHARP * edge for edge in canvas.down[1:-1]):
        pen.line((0, y, width, y), fill=(255, 255, 255, faint), width=SHARP)
        pen.line((0, y + SHARP, width, y + SHARP), fill=(0, 0, 0, faint), width=SHARP)


def outline(pen: ImageDraw.ImageDraw, canvas: Canvas, stays: Sequence[bool]) -> None:
    """A white line with a dark edge around every region of kept cells: visible on any picture."""
    rows, columns = canvas.grid
    edges = []
    for row in range(rows):
        for column in range(columns):
            if not stays[row * columns + column]:
                continue
            left, top, right, bottom = cell_box(canvas, row, column)
            for step_row, step_column, edge in (
                (-1, 0, (left, top, right, top)),
                (1, 0, (left, bottom, right, bottom)),
                (0, -1, (left, top, left, bottom)),
                (0, 1, (right, top, right, bottom)),
            ):
                beyond = (row + step_row, column + step_column)
                inside = 0 <= beyond[0] < rows and 0 <= beyond[1] < columns
                if not inside or not stays[beyond[0] * columns + beyond[1]]:
                    edges.append(edge)
    thick = min(3.0, min(canvas.cell) / 13)
    for colour, width in (((30, 30, 36), 2 * thick), ((255, 255, 255), thick)):
        for edge in edges:
            half = max(1, round(width * SHARP / 2))
            pen.rectangle((edge[0] - half, edge[1] - half, edge[2] + half, edge[3] + half), fill=colour)


def cell_box(canvas: Canvas, row: int, column: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a cell in the window, at painting size."""
    left, right = (SHARP * edge for edge in canvas.across[column : column + 2])
    top, bottom = (SHARP * edge for edge in canvas.down[row : row + 2])
    return left, top, right, bottom


def _merge_lines(pen: ImageDraw.ImageDraw, canvas: Canvas, target: Sequence[int], merged: Sequence[bool]) -> None:
    def centre(index: int) -> tuple[float, float]:
        left, top, right, bottom = cell_box(canvas, *divmod(index, canvas.grid[1]))
        return (left + right) / 2, (top + bottom) / 2

    pairs = [(index, target[index]) for index, yes in enumerate(merged) if yes and 0 <= target[index] < len(target)]
    thick = min(4.0, max(1.0, min(canvas.cell) / 12)) * SHARP
    for colour, width in (((255, 255, 255, 220), 2.0 * thick), (_DEEP_PINK, thick)):
        for start, end in pairs:
            pen.line((*centre(start), *centre(end)), fill=colour, width=round(width))
    for start, _ in pairs:
        _dot(pen, centre(start), 1.7 * thick, (255, 255, 255))
        _dot(pen, centre(start), 1.1 * thick, _DEEP_PINK)
    for end in sorted({end for _, end in pairs}):
        _dot(pen, centre(end), 2.6 * thick, (255, 255, 255))
        _dot(pen, centre(end), 1.9 * thick, _DEEP_PINK)


def _dot(pen: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, colour: tuple[int, ...]) -> None:
    pen.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=colour)


def _dim(sheet: Image.Image) -> Image.Image:
    dark = Image.blend(ImageOps.grayscale(sheet).convert("RGB"), Image.new("RGB", sheet.size, UNSEEN), 0.72)
    return ImageChops.add(dark, hatch(sheet.size, SHARP))


def hatch(size: tuple[int, int], scale: int) -> Image.Image:
    """Diagonal lines on black, which mark what the model never saw, to be added to a picture."""
    lines = Image.new("RGB", size)
    pen = ImageDraw.Draw(lines)
    for x in range(-size[1], size[0], 12 * scale):
        pen.line((x, size[1], x + size[1], 0), fill=(34, 34, 34), width=2 * scale)
    return lines
