"""The picture of which visual tokens an answer rests on: `relevance`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from foveate.draw.captions import bare, place_marks, where_notes
from foveate.draw.cells import GRAY, Canvas, check_size, paint
from foveate.draw.heat import colour, paint_heat
from foveate.draw.page import LegendEntry, Tile, lay_out
from foveate.draw.panes import Pane, frames_of, laid_over, pictures_of
from foveate.draw.places import Crop
from foveate.errors import InputError
from foveate.explain.relevance.result import ImageRelevance, Relevance

__all__ = ["MAX_WORDS", "Word", "relevance"]

MAX_WORDS = 7
"""Most panels of single words: the first ones of a longer answer."""

_MAX_PANES = 4
_SIDE = {2: 640, 3: 520}  # pixels of the seen box's longer side, by panels in a row
_SMALL_SIDE = 420
_PER_ROW = 4
_STEPS = (0.0, 0.0625, 0.25, 0.5625, 1.0)
"""Shares of the largest value that the legend shows."""


@dataclass(frozen=True)
class Word:
    """A word of the answer.

    Attributes:
        text: what it says.
        tokens: the indices of its tokens in the answer.
    """

    text: str
    tokens: tuple[int, ...]


def relevance(
    found: Relevance,
    image: Image.Image | Sequence[Image.Image],
    words: Sequence[Word] = (),
    *,
    question: str = "",
    answer: str = "",
    index: int = 0,
    top: int = 20,
    model: Any = None,
    processor: Any = None,
    crop: Crop | None = None,
) -> Image.Image:
    """Draw how much each visual token mattered to an answer: a heat map over the image for the whole answer, and one per word.

    The colour of a cell is the square root of its share of the panel's largest value, so that small values can be distinguished; the
    legend shows the share for each colour. A panel's largest `top` cells are outlined.

    Args:
        found: what `foveate.relevance` returned.
        image: the image as it was given to the processor, or the frames of a video, also if the model was given the frames as images.
        words: words of the answer that get a panel of their own, at most the first seven; only a tokenizer knows them.
        question: for the caption.
        answer: for the caption.
        index: which image of the relevance, if it has several.
        top: cells to outline; 0 for none.
        model: the model, or its configuration; needs `processor`, too. Without them, or if the family does not know where tokens lie,
            the tokens are drawn next to the image.
        processor: the processor that made the inputs, with the same settings.
        crop: instead of both, for an image with one part: what the model saw of it; see `foveate.draw.Crop`.

    Returns:
        An RGB picture with captions and a legend.

    Raises:
        InputError: there is no such image, or it does not match the picture, the model or the processor.
    """
    pictures = pictures_of(image)
    images = frames_of(found.images, _checked(found, index), len(pictures))
    entry = _joined(images)
    place, panes, frames, shown = laid_over(pictures, images, found.images, model, processor, crop, most=_MAX_PANES)
    steps = [("Whole answer", answer, entry.mean)]
    drawn = list(words)[:MAX_WORDS] if len(words) > 1 else []
    steps += [(f'"{word.text}"', "", entry.tokens[list(word.tokens)].mean(0)) for word in drawn]
    side = _SIDE.get(len(shown) if len(panes) > 1 else 1 + len(steps), _SMALL_SIDE)
    canvases = [Canvas.fit(pane.region, pane.picture.size, side) for pane in panes]
    check_size([canvases[number] for number in shown], 1 + len(steps))
    if place.regions is None:
        rows = [[replace(bare(picture, _SMALL_SIDE), title=question or "The picture") for picture in pictures[:_PER_ROW]]]
    else:
        rows = [[_bare(panes[number], canvases[number], question) for number in shown]]
    rows += [[_tile(panes[number], canvases[number], *step, top) for number in shown] for step in steps]
    if len(panes) == 1:
        tiles = [tile for row in rows for tile in row]
        across = _per_row(len(tiles))
        rows = [tiles[at : at + across] for at in range(0, len(tiles), across)]
    seen = [canvases[number] for number in shown]
    notes = _notes(found, (len(panes), frames, len(shown)), len(words), len(drawn))
    return lay_out(rows, _legend(seen, top, len(panes)), [*notes, *where_notes(place, seen)])


def _checked(found: Relevance, index: int) -> int:
    if not 0 <= index < len(found.images):
        raise InputError(f"index={index}, but the relevance is of {len(found.images)} image(s): 0..{len(found.images) - 1}")
    return index


def _joined(images: Sequence[ImageRelevance]) -> ImageRelevance:
    """A single image unchanged; several, which are the frames of a video, joined into one."""
    first, *others = images
    if not others:
        return first
    tokens = torch.cat([image.tokens for image in images], dim=1)
    if len(first.parts) > 1:
        return replace(first, grid=(1, 1, tokens.shape[1]), tokens=tokens, parts=tuple(part for image in images for part in image.parts))
    return replace(first, grid=(len(images), *first.grid[1:]), tokens=tokens, parts=())


def _bare(pane: Pane, canvas: Canvas, question: str) -> Tile:
    """The picture without colours."""
    cells = range(canvas.grid[0] * canvas.grid[1])
    painted = paint(pane.picture, canvas, list(cells), GRAY, lines=False, grid=True)
    rows, columns = canvas.grid
    name = f"{pane.name}: " if pane.name else ""
    return Tile(painted, question or "The picture", f"{name}{rows} x {columns} tokens")


def _tile(pane: Pane, canvas: Canvas, title: str, text: str, values: Tensor, top: int) -> Tile:
    """One panel; levels and largest cells refer to all panes, so that panels can be compared."""
    largest = float(values.max())
    own = values[list(pane.tokens)]
    levels = (own / largest).sqrt().tolist() if largest > 0 else [0.0] * len(pane.tokens)
    ranked = values.argsort(descending=True, stable=True)[:top]
    outlined = {place for place, token in enumerate(pane.tokens) if token in set(ranked.tolist())}
    held = float(values[ranked].sum() / values.sum()) if largest > 0 else 0.0
    counts = (
        f"top {len(ranked)} of {len(values)} tokens hold {held:.0%}" if len(ranked) and largest > 0 else "no token matters" * (not largest)
    )
    heading = f"{title}: {text}" if text else title
    return Tile(paint_heat(pane.picture, canvas, levels, outlined), f"{heading}, {pane.name}" if pane.name else heading, counts)


def _legend(canvases: Sequence[Canvas], top: int, panes: int) -> list[LegendEntry]:
    ends = ("nothing", "largest of the panel" if panes == 1 else "largest of the row")
    legend = [LegendEntry(f"{share:.0%}" if 0 < share < 1 else ends[round(share)], colour(share**0.5)) for share in _STEPS]
    if top:
        legend.append(LegendEntry(f"top {top} tokens", None))
    return legend + place_marks(canvases)


def _notes(found: Relevance, panes: tuple[int, int, int], words: int, drawn: int) -> list[str]:
    total, frames, shown = panes
    how = "attention weighted by its gradient" if found.gradients else "attention alone"
    notes = [f"Relevance by {how}, of each answer token's {found.target.replace('_', ' ')}; the whole answer is the average of its tokens."]
    if drawn and drawn < words:
        notes.append(f"The first {drawn} of {words} words have a panel; the average is over all of them.")
    if total > shown:
        notes.append(f"{shown * frames // total} of {frames} frames are shown; colours and top tokens are those of all frames.")
    return notes


def _per_row(panels: int) -> int:
    return 3 if panels in (5, 6, 9) else min(panels, _PER_ROW)
