"""What every page says about where tokens lie, and the picture next to them if that is unknown."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from foveate.draw.cells import PADDING, UNSEEN, Canvas
from foveate.draw.page import LegendEntry, Tile
from foveate.draw.places import Placement

__all__ = ["bare", "place_marks", "where_notes"]


def bare(picture: Image.Image, side: int) -> Tile:
    """The picture without tokens, about `side` pixels on its longer side."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return Tile(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), "The picture")


def place_marks(canvases: Sequence[Canvas]) -> list[LegendEntry]:
    """The legend's entries for what the model did not see, and for borders that a processor added, if any panel shows them."""
    marks = []
    if any(canvas.bordered for canvas in canvases):
        marks.append(LegendEntry("border that the processor added", PADDING, hatched=True))
    if any(canvas.unseen for canvas in canvases):
        partly = any(canvas.unseen and canvas.trimmed for canvas in canvases)
        marks.append(LegendEntry("not seen by the model" + (" (partly shown)" if partly else ""), UNSEEN, hatched=True))
    return marks


def where_notes(place: Placement, canvases: Sequence[Canvas]) -> list[str]:
    """The notes about where tokens lie."""
    if place.regions is None:
        return [f"Where these tokens lie in the picture is not known ({place.why}), so they are drawn apart from it, in their own order."]
    return ["Strips of the picture between its crops, which no token covers, are omitted."] * any(canvas.gaps for canvas in canvases)
