"""Painting one panel: a picture under its token grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageChops, ImageDraw, ImageOps

from foveate.draw.geometry import Box
from foveate.errors import InputError
from foveate.plan import DROPPED

__all__ = [
    "GRAY", "PINK", "SHARP", "UNSEEN", "Canvas", "check_size", "faded", "finished", "hatch", "outline", "paint", "shade_for", "stretched",
    "window_box",
]  # fmt: skip

PINK = (255, 64, 156)
GRAY = (150, 150, 154)
_LIGHT_GRAY = (226, 226, 230)
UNSEEN = (58, 58, 66)
_DEEP_PINK = (206, 0, 96)
_FADE = 0.74  # how far dropped tokens go towards gray
SHARP = 3  # painted this many times larger, then scaled down: Pillow's lines are not smooth by themselves
_PANEL_PIXELS, _PAGE_PIXELS = 12_000_000, 150_000_000
_MARGIN = 0.5  # of what the model did not see, at most this share of the seen box's longer side is shown at each end


@dataclass(frozen=True)
class Canvas:
    """How a picture, the box that the model saw of it, and the grid map to pixels of the panel.

    Attributes:
        box: what the model saw, in pixels of the picture.
        size: (width, height) of the picture.
        grid: (rows, columns).
        cell: (width, height) of a grid cell in pixels of the panel.
    """

    box: Box
    size: tuple[int, int]
    grid: tuple[int, int]
    cell: tuple[int, int]

    @classmethod
    def fit(cls, box: Box, size: tuple[int, int], grid: tuple[int, int], side: int) -> Canvas:
        """A canvas whose seen box is about `side` pixels on its longer side; never less than 6 pixels to a cell."""
        rows, columns = grid
        scale = side / max(box.width, box.height)
        cell = (max(6, round(box.width * scale / columns)), max(6, round(box.height * scale / rows)))
        return cls(box, size, grid, cell)

    @cached_property
    def window(self) -> tuple[int, int]:
        """(width, height) of the seen box on the panel."""
        return self.cell[0] * self.grid[1], self.cell[1] * self.grid[0]

    @cached_property
    def shown(self) -> Box:
        """What the panel shows, in pixels of the picture: the seen box and some of what lies around it."""
        room = _MARGIN * max(self.box.width, self.box.height)
        return Box(
            min(self.box.left, max(0.0, self.box.left - room)),
            min(self.box.top, max(0.0, self.box.top - room)),
            max(self.box.right, min(float(self.size[0]), self.box.right + room)),
            max(self.box.bottom, min(float(self.size[1]), self.box.bottom + room)),
        )

    @cached_property
    def origin(self) -> tuple[int, int]:
        """Where the seen box begins on the panel."""
        return (
            round((self.box.left - self.shown.left) * self.window[0] / self.box.width),
            round((self.box.top - self.shown.top) * self.window[1] / self.box.height),
        )

    @cached_property
    def panel(self) -> tuple[int, int]:
        """(width, height) of the whole panel."""
        right = (self.shown.right - self.box.right) * self.window[0] / self.box.width
        bottom = (self.shown.bottom - self.box.bottom) * self.window[1] / self.box.height
        return self.origin[0] + self.window[0] + round(right), self.origin[1] + self.window[1] + round(bottom)

    @property
    def trimmed(self) -> bool:
        """Whether the picture goes on beyond the panel."""
        shown = self.shown
        return shown.left > 0 or shown.top > 0 or shown.right < self.size[0] or shown.bottom < self.size[1]

    @property
    def unseen(self) -> bool:
        """Whether the panel shows something that the model did not see."""
        return self.panel != self.window


def check_size(canvases: Sequence[Canvas], panels: int) -> None:
    """See that a page can be painted, before memory is taken for it: a grid from a file may have any shape.

    Args:
        canvases: of one row of panels.
        panels: such rows.

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
    """What dropped tokens fade to: the usual gray, or a light one if much of the picture has the tones of faded tokens itself."""
    whole_pixels = (math.floor(box.left), math.floor(box.top), math.ceil(box.right), math.ceil(box.bottom))
    tones = ImageOps.grayscale(picture).crop(whole_pixels).histogram()

    def share_alike(shade: tuple[int, int, int]) -> float:
        darkest = round(_FADE * shade[0])
        return sum(tones[darkest : darkest + round((1 - _FADE) * 255)]) / sum(tones)

    usual = share_alike(GRAY)
    return _LIGHT_GRAY if usual > 0.12 and share_alike(_LIGHT_GRAY) < usual / 2 else GRAY


def faded(shade: tuple[int, int, int]) -> tuple[int, int, int]:
    """How a dropped token of middling tone looks, for the legend."""
    red, green, blue = (round(_FADE * part + (1 - _FADE) * 100) for part in shade)
    return red, green, blue


def paint(
    picture: Image.Image, canvas: Canvas, target: Sequence[int], shade: tuple[int, int, int], *, lines: bool, grid: bool
) -> Image.Image:
    """One panel.

    Args:
        picture: RGB, of `canvas.size`.
        canvas: where things lie.
        target: per cell, row-major: its own index if it stays, the index of another cell (which may lie beyond this grid, in another
            frame) if it is merged, -1 if it is dropped.
        shade: what dropped cells fade to, from `shade_for`.
        lines: draw a line from each merged cell to the one that it went to.
        grid: draw the grid.
    """
    stays = [goal == cell for cell, goal in enumerate(target)]
    merged = [goal not in (cell, DROPPED) for cell, goal in enumerate(target)]
    dropped = [goal == DROPPED for goal in target]
    sheet = stretched(picture, canvas)
    window = _tokens(sheet.crop(window_box(canvas)), canvas, merged, dropped, shade)
    large = canvas.cell[0] * SHARP, canvas.cell[1] * SHARP
    pen = ImageDraw.Draw(window, "RGBA")
    if grid:
        _grid(pen, canvas.grid, large)
    if any(dropped) or any(merged):
        outline(pen, canvas.grid, large, stays)
    if lines and any(merged):
        _merge_lines(pen, canvas.grid, large, target, merged)
    return finished(sheet, window, canvas)


def finished(sheet: Image.Image, window: Image.Image, canvas: Canvas) -> Image.Image:
    """The panel at its own size: `window` in its place on `sheet`, both at painting size, and what the model did not see darkened."""
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
    """What the panel shows of the picture, at painting size; where a processor pads, neutral gray."""
    size = canvas.panel[0] * SHARP, canvas.panel[1] * SHARP
    shown = canvas.shown
    right, bottom = (float(edge) for edge in picture.size)
    inside = Box(max(0.0, shown.left), max(0.0, shown.top), min(right, shown.right), min(bottom, shown.bottom))
    if inside == shown:
        return picture.resize(size, Image.Resampling.BICUBIC, box=inside)
    across, down = size[0] / shown.width, size[1] / shown.height
    left, top = round((inside.left - shown.left) * across), round((inside.top - shown.top) * down)
    part = picture.resize((round(inside.width * across), round(inside.height * down)), Image.Resampling.BICUBIC, box=inside)
    sheet = Image.new("RGB", size, (122, 116, 104))  # the mean colour that processors pad with
    sheet.paste(part, (left, top))
    return sheet


def _tokens(
    window: Image.Image, canvas: Canvas, merged: Sequence[bool], dropped: Sequence[bool], shade: tuple[int, int, int]
) -> Image.Image:
    if any(dropped):
        gray = ImageOps.grayscale(window).convert("RGB")
        pale = Image.blend(gray, Image.new("RGB", window.size, shade), _FADE)
        window = Image.composite(pale, window, _mask(dropped, canvas, window.size))
    if any(merged):
        tinted = ImageOps.colorize(ImageOps.grayscale(window), (178, 20, 104), (255, 200, 226), mid=PINK)
        window = Image.composite(tinted, window, _mask(merged, canvas, window.size))
    return window


def _mask(chosen: Sequence[bool], canvas: Canvas, size: tuple[int, int]) -> Image.Image:
    rows, columns = canvas.grid
    mask = Image.new("L", (columns, rows))
    mask.putdata([255 if yes else 0 for yes in chosen])
    return mask.resize(size, Image.Resampling.NEAREST)


def _grid(pen: ImageDraw.ImageDraw, grid: tuple[int, int], cell: tuple[int, int]) -> None:
    rows, columns = grid
    width, height = columns * cell[0], rows * cell[1]
    faint = 70 if min(cell) >= 12 * SHARP else 40
    for x in range(cell[0], width, cell[0]):
        pen.line((x, 0, x, height), fill=(255, 255, 255, faint), width=SHARP)
        pen.line((x + SHARP, 0, x + SHARP, height), fill=(0, 0, 0, faint), width=SHARP)
    for y in range(cell[1], height, cell[1]):
        pen.line((0, y, width, y), fill=(255, 255, 255, faint), width=SHARP)
        pen.line((0, y + SHARP, width, y + SHARP), fill=(0, 0, 0, faint), width=SHARP)


def outline(pen: ImageDraw.ImageDraw, grid: tuple[int, int], cell: tuple[int, int], stays: Sequence[bool]) -> None:
    """A white line with a dark edge around every region of cells that stay: visible on any picture."""
    rows, columns = grid
    edges = []
    for row in range(rows):
        for column in range(columns):
            if not stays[row * columns + column]:
                continue
            left, top, right, bottom = column * cell[0], row * cell[1], (column + 1) * cell[0], (row + 1) * cell[1]
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
    thick = min(3.0, min(cell) / SHARP / 13)
    for colour, width in (((30, 30, 36), 2 * thick), ((255, 255, 255), thick)):
        for edge in edges:
            half = max(1, round(width * SHARP / 2))
            pen.rectangle((edge[0] - half, edge[1] - half, edge[2] + half, edge[3] + half), fill=colour)


def _merge_lines(
    pen: ImageDraw.ImageDraw, grid: tuple[int, int], cell: tuple[int, int], target: Sequence[int], merged: Sequence[bool]
) -> None:
    columns = grid[1]

    def centre(index: int) -> tuple[float, float]:
        return (index % columns + 0.5) * cell[0], (index // columns + 0.5) * cell[1]

    pairs = [(index, target[index]) for index, yes in enumerate(merged) if yes and 0 <= target[index] < len(target)]
    thick = min(4.0, max(1.0, min(cell) / SHARP / 12)) * SHARP
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
    """Diagonal lines on black, the sign for what the model never saw, to be added to a picture."""
    lines = Image.new("RGB", size)
    pen = ImageDraw.Draw(lines)
    for x in range(-size[1], size[0], 12 * scale):
        pen.line((x, size[1], x + size[1], 0), fill=(34, 34, 34), width=2 * scale)
    return lines
