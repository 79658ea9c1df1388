"""What every patch shows: the dense labels that train the vision tower before any question is asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveate.demo.scenes.drawing import COLOURS, LONGEST, PITCH, SHAPES, SIZES, Item
from foveate.demo.scenes.glyphs import ALPHABET

PATCH = 14  # pixels per side
GRID = 24  # patches per side of a whole scene

# Each label's name, and its number of classes. A patch that a label does not apply to has `IGNORED` there.
CLASSES: dict[str, int] = {
    "kind": 1 + len(SHAPES) + 2,  # background, the shapes, sign, handwritten digit
    "colour": len(COLOURS),
    "size": len(SIZES),
    "character": len(ALPHABET),
    "index": LONGEST,  # which character of its sign
    "last": 2,  # whether it is the sign's last character
    "digit": 10,
}
IGNORED = -100
_SIGN, _DIGIT = 1 + len(SHAPES), 2 + len(SHAPES)
_COLUMN = {name: position for position, name in enumerate(CLASSES)}
_COLOURS, _SIZES = list(COLOURS), list(SIZES)


PatchGrid = tuple[int, int]
"""Rows and columns of patches."""


def square(grid: int | PatchGrid) -> PatchGrid:
    """Rows and columns of a grid; a single number means a square."""
    return (grid, grid) if isinstance(grid, int) else grid


def overlap(item: Item, grid: int | PatchGrid) -> NDArray[np.int64]:
    """Pixels that each patch shares with the box of an item: (rows, columns), between 0 and 196."""
    rows, columns = (np.arange(count) * PATCH for count in square(grid))
    across = np.clip(np.minimum(columns + PATCH, item.x + item.width) - np.maximum(columns, item.x), 0, None)
    down = np.clip(np.minimum(rows + PATCH, item.y + item.height) - np.maximum(rows, item.y), 0, None)
    return down[:, None] * across[None, :]


def patch_labels(
    items: Sequence[Item], grid: int | PatchGrid, offset: tuple[int, int] = (0, 0)
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Label the patches of a picture, n of them in all, row by row.

    Args:
        items: the things in it, in pixels of the picture.
        grid: its rows and columns of patches.
        offset: (column, row) of the picture's first patch in the whole scene, for the centres.

    Returns:
        Classes (n, len(CLASSES)), and the centre (x, y) of the thing seen, as a share of the whole scene's side (n, 2),
        NaN where there is only background.
    """
    grid = square(grid)
    labels = np.full((*grid, len(CLASSES)), IGNORED, dtype=np.int64)
    labels[..., _COLUMN["kind"]] = 0
    centres = np.full((*grid, 2), np.nan, dtype=np.float32)
    most = np.full(grid, 30)  # a patch that shares fewer pixels with a thing counts as background
    for item in items:
        shared = overlap(item, grid)
        seen = shared > most
        most = np.maximum(most, shared)
        labels[seen] = _of(item)
        centres[seen] = (np.array(item.centre) / PATCH + offset) / GRID
        if item.kind == "sign":
            _label_characters(labels, item, seen)
    return labels.reshape(-1, len(CLASSES)), centres.reshape(-1, 2)


def _of(item: Item) -> NDArray[np.int64]:
    row = np.full(len(CLASSES), IGNORED, dtype=np.int64)
    if item.kind == "digit":
        row[_COLUMN["kind"]], row[_COLUMN["digit"]] = _DIGIT, int(item.text)
        return row
    row[_COLUMN["colour"]] = _COLOURS.index(item.colour)
    if item.kind == "sign":
        row[_COLUMN["kind"]] = _SIGN
        return row
    row[_COLUMN["kind"]] = 1 + SHAPES.index(item.shape)
    row[_COLUMN["size"]] = _SIZES.index(item.size)
    return row


def _label_characters(labels: NDArray[np.int64], item: Item, seen: NDArray[np.bool_]) -> None:
    """Assign to each patch of a sign the character whose centre is nearest to its own, column by column."""
    first = item.x + item.width / 2 - PITCH * (len(item.text) - 1) / 2
    for column in np.flatnonzero(seen.any(axis=0)):
        index = round((column * PITCH + PATCH / 2 - first) / PITCH)
        index = min(max(index, 0), len(item.text) - 1)
        rows = seen[:, column]
        labels[rows, column, _COLUMN["character"]] = ALPHABET.index(item.text[index])
        labels[rows, column, _COLUMN["index"]] = index
        labels[rows, column, _COLUMN["last"]] = index == len(item.text) - 1
