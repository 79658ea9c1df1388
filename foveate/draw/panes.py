"""The rectangles of tokens that an image is drawn as: one, or the frames of a video, or the parts of an image shown as several crops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from foveate.errors import InputError
from foveate.plan import Plan
from foveate.report import ImageReport

__all__ = ["Pane", "panes_of"]


@dataclass(frozen=True)
class Pane:
    """One rectangle of tokens over one picture.

    Attributes:
        picture: RGB.
        grid: (rows, columns).
        tokens: which of the image's tokens they are, row by row.
        name: what it is, for captions; empty if there is only one.
    """

    picture: Image.Image
    grid: tuple[int, int]
    tokens: tuple[int, ...]
    name: str = ""

    def targets(self, plan: Plan) -> list[int]:
        """Where each token goes, as an index within the pane; one that is in another pane comes out beyond it."""
        own = {token: place for place, token in enumerate(self.tokens)}
        goals = plan.target[list(self.tokens)].tolist()
        return [goal if goal < 0 else own.get(goal, len(self.tokens) + goal) for goal in goals]

    def counts(self, plan: Plan) -> str:
        """How many of its tokens stay, in words."""
        stay = int(torch.isin(torch.tensor(self.tokens), plan.kept).sum())
        return f"{len(self.tokens)} tokens" if plan.is_identity else f"{stay} of {len(self.tokens)} tokens stay"


def panes_of(image: Image.Image | Sequence[Image.Image], entry: ImageReport) -> list[Pane]:
    """The panes of one image or video.

    Crops of one size that stand side by side are joined again: as many rows and columns of them as fit the picture's shape best. The
    whole picture, which models add as a crop of its own, is a second pane.

    Args:
        image: the picture, or the frames of a video.
        entry: its report.

    Raises:
        InputError: the number of pictures or their sizes do not fit the report.
    """
    given = [image] if isinstance(image, Image.Image) else list(image)
    frames, rows, columns = entry.grid
    if len(given) < frames or (frames == 1 and len(given) > 1):
        raise InputError(f"the report is of {frames} frame(s), but {len(given)} picture(s) were given; pass the frames as a list")
    if any(frame.size != given[0].size for frame in given):
        raise InputError(f"the frames differ in size: {sorted({frame.size for frame in given})}")
    if len(entry.parts) > 1:
        return _parts(given[0].convert("RGB"), entry)
    cells = rows * columns
    # A processor may have merged several frames of the video into each.
    shown = [given[(2 * frame + 1) * len(given) // (2 * frames)].convert("RGB") for frame in range(frames)]
    return [
        Pane(picture, (rows, columns), tuple(range(frame * cells, (frame + 1) * cells)), f"frame {frame + 1}" if frames > 1 else "")
        for frame, picture in enumerate(shown)
    ]


def _parts(picture: Image.Image, entry: ImageReport) -> list[Pane]:
    if any(part[0] != 1 for part in entry.parts):
        raise InputError(f"the report's {len(entry.parts)} parts should have one frame each; a video is drawn from its grid alone")
    ends = [math.prod(part) for part in entry.parts]
    tokens = torch.arange(sum(ends)).split(ends)
    grids = [part[1:] for part in entry.parts]
    if len(grids) == 2:  # the whole picture, and all crops joined; or two crops
        joined = grids[0] != grids[1]
        names = ("whole picture", "crops, joined") if joined else ("crop", "whole picture")
        return [Pane(picture, grid, tuple(own.tolist()), name) for grid, own, name in zip(grids, tokens, names, strict=True)]
    if any(own != entry.parts[0] for own in entry.parts[:-1]):
        raise InputError(
            f"the report's {len(entry.parts)} parts are no crops of one shape before the whole picture, so they cannot be drawn"
        )
    (high, wide), crops = grids[0], len(grids) - 1
    down, across = _arrangement(crops, picture.width / picture.height)
    rectangle = torch.stack(tokens[:-1]).view(down, across, high, wide).transpose(1, 2).flatten()
    return [
        Pane(picture, (down * high, across * wide), tuple(rectangle.tolist()), f"{down} x {across} crops"),
        Pane(picture, grids[-1], tuple(tokens[-1].tolist()), "whole picture"),
    ]


def _arrangement(crops: int, aspect: float) -> tuple[int, int]:
    """Rows and columns of crops whose shape comes closest to the picture's."""
    ways = [(rows, crops // rows) for rows in range(1, crops + 1) if crops % rows == 0]
    return min(ways, key=lambda way: abs(math.log(way[1] / way[0] / aspect)))
