"""Canvases whose tokens lie in a box of a picture, all of one size."""

from __future__ import annotations

from foveate.draw.cells import Canvas
from foveate.families import Region
from foveate.families.kit.regions import cells, placed


def region(left: float, top: float, right: float, bottom: float, grid: tuple[int, int]) -> Region:
    rows, columns = grid
    return Region(placed(cells(rows, (bottom - top) / rows), top, 1.0), placed(cells(columns, (right - left) / columns), left, 1.0))


def canvas_of(box: tuple[float, float, float, float], size: tuple[int, int], grid: tuple[int, int], side: int) -> Canvas:
    return Canvas.fit(region(*box, grid), size, side)
