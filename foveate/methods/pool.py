"""Pool: average pooling of the token grid, for any budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heapreplace

import torch

from foveate.method import Method
from foveate.methods.registry import register
from foveate.plan import Plan
from foveate.view import View

__all__ = ["Pool"]

Cell = tuple[int, int, int]
"""Frame, row and column of a token."""


@register
@dataclass(frozen=True)
class Pool(Method):
    """Averages neighbouring tokens: the grid is cut into exactly `keep` cells, each of which becomes its mean.

    Adaptive average pooling, as in DeCo, https://arxiv.org/abs/2405.20985, but without training and for any number of
    cells. Each frame is cut into bands of whole rows and each band into rectangles. The number of bands is the one whose
    tokens lie nearest to the middle of their rectangle. The mean takes the place of the cell's centre token. A video's
    budget is spread evenly over its frames; with fewer cells than frames, a cell spans several whole frames. An image that
    is shown as several crops is pooled crop by crop, each with its share of the budget. If tokens are missing after an
    earlier method, the rest are grouped into bands and cells of even count. The default layer is that of `TokenCarve` and
    `FastV`, so that a comparison changes nothing but the choice; `layer=0` pools at the language model's input.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before.
        clamp: as in `Method`.
    """

    def plan(self, view: View) -> Plan:
        """Decide for one image, from its grid alone."""
        budget = self.budget(len(view), view.grid[0])
        index = None if view.index is None else tuple(view.index.tolist())
        target, order = _pooled(view.parts, index, budget)
        return Plan.deferred(target.clone(), budget, order.clone() if order.numel() else None)


@lru_cache(maxsize=64)
def _pooled(parts: tuple[Cell, ...], index: tuple[int, ...] | None, keep: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Plan target (n,) that pools the tokens at the cells `index` of the parts (`None`: all cells) into `keep` groups; merged tokens."""
    shapes = [(height, width) for time, height, width in parts for _ in range(time)]
    every = [(frame, row, column) for frame, (height, width) in enumerate(shapes) for row in range(height) for column in range(width)]
    places = every if index is None else [every[i] for i in index]
    frames: dict[int, list[int]] = {}
    for token, place in enumerate(places):
        frames.setdefault(place[0], []).append(token)
    target = [0] * len(places)
    in_order = [sorted(frames[f], key=lambda i: places[i]) for f in sorted(frames)]
    for tokens, share in _spread_over_frames(in_order, keep):
        height, width = shapes[places[tokens[0]][0]]
        whole_frame = len(tokens) == height * width and places[tokens[-1]][0] == places[tokens[0]][0]
        groups = _rectangles(height, width, share) if whole_frame else _groups([places[i] for i in tokens], share)
        for group in groups:
            members = [tokens[i] for i in group]
            centre = _centre(members, places)
            for member in members:
                target[member] = centre
    merged = [token for token, goes_to in enumerate(target) if token != goes_to]
    return torch.tensor(target), torch.tensor(merged, dtype=torch.long)


def _spread_over_frames(frames: list[list[int]], keep: int) -> Iterator[tuple[list[int], int]]:
    """Tokens and budget of each frame, or of each run of frames if there are fewer cells than frames."""
    if keep < len(frames):
        for start, stop in _even(len(frames), keep):
            yield [token for frame in frames[start:stop] for token in frame], 1
        return
    # Shares are proportional to the tokens; what rounding leaves goes to the largest remainders, then to the first frames.
    total = sum(map(len, frames))
    shares = [max(1, keep * len(frame) // total) for frame in frames]
    while sum(shares) > keep:
        above_one = (f for f in range(len(frames)) if shares[f] > 1)
        shares[max(above_one, key=lambda f: shares[f] - keep * len(frames[f]) / total)] -= 1
    while sum(shares) < keep:
        open_frames = (f for f in range(len(frames)) if shares[f] < len(frames[f]))
        shares[max(open_frames, key=lambda f: keep * len(frames[f]) / total - shares[f])] += 1
    yield from zip(frames, shares, strict=True)


def _rectangles(height: int, width: int, keep: int) -> Iterator[list[int]]:
    """Rectangles of a full grid, with the number of bands whose tokens lie nearest to the middle of their rectangle."""
    fewest, most = -(-keep // width), min(height, keep)
    near = min(max(round(math.sqrt(keep * height / width)), fewest), most)
    # Square cells need `near` bands, but with whole rows and columns twice or half as many can fit better.
    candidates = range(max(fewest, near // 2), min(most, 2 * near) + 1)
    layouts = (_bands(height, width, keep, bands) for bands in candidates)
    best = min(layouts, key=lambda cells: sum(map(_inertia, cells)))
    for top, bottom, left, right in best:
        yield [row * width + column for row in range(top, bottom) for column in range(left, right)]


def _bands(height: int, width: int, keep: int, bands: int) -> list[tuple[int, int, int, int]]:
    """Rectangles (top, bottom, left, right) of `bands` bands whose numbers of cells differ by at most one."""
    counts = [stop - start for start, stop in _even(keep, bands)]
    # Each further row goes to the band with the smallest cells.
    heights, smallest = [1] * bands, [(1 / count, band) for band, count in enumerate(counts)]
    heapify(smallest)
    for _ in range(height - bands):
        band = smallest[0][1]
        heights[band] += 1
        heapreplace(smallest, (heights[band] / counts[band], band))
    cells, top = [], 0
    for count, tall in zip(counts, heights, strict=True):
        cells += [(top, top + tall, left, right) for left, right in _even(width, count)]
        top += tall
    return cells


def _inertia(cell: tuple[int, int, int, int]) -> int:
    """Twelve times the sum of squared distances of a rectangle's tokens from its middle."""
    tall, wide = cell[1] - cell[0], cell[3] - cell[2]
    return tall * wide * (tall * tall + wide * wide - 2)


def _groups(places: list[Cell], keep: int) -> Iterator[list[int]]:
    """Groups of scattered tokens: bands of consecutive rows, each cut into groups whose sizes differ by at most one token."""
    rows, columns = ([place[axis] for place in places] for axis in (1, 2))
    height, width = (max(axis) - min(axis) + 1 for axis in (rows, columns))
    bands = min(max(round(math.sqrt(keep * height / width)), 1), keep)
    by_row = sorted(range(len(places)), key=lambda i: (rows[i], columns[i], i))
    bounds = list(_even(len(places), keep))
    for first, last in _even(keep, bands):
        start = bounds[first][0]
        band = sorted(by_row[start : bounds[last - 1][1]], key=lambda i: (columns[i], rows[i], i))
        for left, right in bounds[first:last]:
            yield band[left - start : right - start]


def _centre(members: list[int], places: list[Cell]) -> int:
    """The member nearest to the middle of all; among equals, the one with the lower index."""
    middle = [sum(places[i][axis] for i in members) / len(members) for axis in range(3)]
    return min(members, key=lambda i: (sum((places[i][axis] - middle[axis]) ** 2 for axis in range(3)), i))


def _even(length: int, parts: int) -> Iterator[tuple[int, int]]:
    """Bounds (start, stop) of `parts` consecutive runs of 0..length-1 whose lengths differ by at most one."""
    return ((part * length // parts, (part + 1) * length // parts) for part in range(parts))
