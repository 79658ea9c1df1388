"""Paint one panel of relevance: a gray picture under coloured cells."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from PIL import Image, ImageDraw, ImageOps

from foveate.draw.cells import Canvas, cell_image, finished, outline, stretched, window_box

__all__ = ["colour", "paint_heat"]

# Even steps of the viridis map (public domain, CC0): its lightness rises evenly, and colour-blind readers can follow it.
_VIRIDIS = (
    (68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141),
    (39, 173, 129), (92, 200, 99), (170, 220, 50), (253, 231, 37),
)  # fmt: skip
_FAINTEST, _STRONGEST = 0.35, 0.85
"""How much of a cell is colour rather than picture, at zero relevance and at the largest."""


def colour(level: float) -> tuple[int, int, int]:
    """The colour of a level in [0, 1]."""
    place = min(max(level, 0.0), 1.0) * (len(_VIRIDIS) - 1)
    at = min(int(place), len(_VIRIDIS) - 2)
    red, green, blue = (round(low + (high - low) * (place - at)) for low, high in zip(_VIRIDIS[at], _VIRIDIS[at + 1], strict=True))
    return red, green, blue


def paint_heat(picture: Image.Image, canvas: Canvas, levels: Sequence[float], top: Collection[int]) -> Image.Image:
    """Paint one panel.

    Args:
        picture: RGB, of size `canvas.size`.
        canvas: where things lie.
        levels: per cell, row-major: its relevance as a level in [0, 1].
        top: cells to outline.
    """
    sheet = stretched(picture, canvas)
    window = sheet.crop(window_box(canvas))
    pale = Image.blend(ImageOps.grayscale(window).convert("RGB"), Image.new("RGB", window.size, (190, 190, 190)), 0.3)
    heat = cell_image([colour(level) for level in levels], canvas)
    mask = cell_image([round(255 * (_FAINTEST + (_STRONGEST - _FAINTEST) * level)) for level in levels], canvas)
    window = Image.composite(heat, pale, mask)
    stays = [cell in top for cell in range(len(levels))]
    outline(ImageDraw.Draw(window, "RGBA"), canvas, stays)
    return finished(sheet, window, canvas)
