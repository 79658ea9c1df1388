"""The rectangles of tokens that an image is drawn as: one, or several for the frames of a video or for the crops of an image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from foveate.draw.places import Placement, place_of
from foveate.errors import InputError, UsageError
from foveate.families import Region
from foveate.families.kit.regions import cells
from foveate.plan import Plan
from foveate.printable import described
from foveate.view import Grid

__all__ = ["Pane", "frames_of", "laid_over", "panes_of", "pictures_of", "spread"]

_APART = 24
"""Size in pixels of a cell that is drawn apart from the picture."""
_NEUTRAL = (186, 188, 194)


@dataclass(frozen=True)
class Pane:
    """One rectangle of tokens over one picture.

    Attributes:
        picture: RGB.
        region: where the tokens lie in it.
        tokens: the indices of its tokens in the image, row by row.
        name: its name in captions; empty if there is only one.
    """

    picture: Image.Image
    region: Region
    tokens: tuple[int, ...]
    name: str = ""

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.region.grid

    def within(self, first: int, name: str) -> Pane:
        """The same pane in a longer list of tokens, where its own begin at `first`."""
        return replace(self, tokens=tuple(first + token for token in self.tokens), name=", ".join(filter(None, (name, self.name))))

    def targets(self, plan: Plan) -> list[int]:
        """Where each token goes, as an index within the pane; a target in another pane becomes an index beyond it."""
        own = {token: place for place, token in enumerate(self.tokens)}
        goals = plan.target[list(self.tokens)].tolist()
        return [goal if goal < 0 else own.get(goal, len(self.tokens) + goal) for goal in goals]

    def counts(self, plan: Plan) -> str:
        """How many of its tokens stay, in words."""
        stay = int(torch.isin(torch.tensor(self.tokens), plan.kept).sum())
        return f"{len(self.tokens)} tokens" if plan.is_identity else f"{stay} of {len(self.tokens)} tokens stay"


def pictures_of(image: Any) -> list[Image.Image]:
    """One picture, or the frames of a video, as a list.

    Raises:
        UsageError: something else was given.
    """
    pictures = [image] if isinstance(image, Image.Image) else list(image) if isinstance(image, Sequence) else [image]
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            raise UsageError(f"a picture is a Pillow image, such as PIL.Image.open(path) gives; got {described(image)}")
    return pictures


def frames_of(images: Sequence[Any], index: int, pictures: int) -> list[Any]:
    """The requested image, or all images of its row if the model was given a video's frames as separate images.

    Args:
        images: those of a report or of a relevance.
        index: which one.
        pictures: how many pictures the caller has.
    """
    row = [image for image in images if image.row == images[index].row]
    alike = all(image.parts == row[0].parts and image.kind == "image" and image.grid[0] == 1 for image in row)
    return row if pictures > 1 and len(row) == pictures and alike else [images[index]]


def spread(panes: int, frames: int, most: int) -> list[int]:
    """Which panes to show: all, or those of evenly spaced frames, so that at most `most` are shown, and at least one frame."""
    each = panes // frames
    room = max(1, most // each)
    if frames <= room:
        return list(range(panes))
    chosen = [round(number * (frames - 1) / max(1, room - 1)) for number in range(room)]
    return [frame * each + pane for frame in chosen for pane in range(each)]


def laid_over(
    pictures: Sequence[Image.Image], images: Sequence[Any], among: Sequence[Any], model: Any, processor: Any, crop: Any, *, most: int
) -> tuple[Placement, list[Pane], int, list[int]]:
    """Find where the tokens of an image or of a video's frames lie, their panes, the number of frames, and which panes to show.

    Args:
        pictures: the picture, or the frames of a video.
        images: what `frames_of` returned.
        among: all images of the report or relevance.
        model: see `place_of`.
        processor: see `place_of`.
        crop: see `place_of`.
        most: most panes to show, see `spread`.

    Raises:
        InputError: the pictures do not match the images, the model or the processor.
    """
    first, size = images[0], pictures[0].size if pictures else (0, 0)
    others = sum(other.row == first.row for other in among)
    place = place_of(model, processor, crop, size, first.parts, video=first.kind == "video", pictures=others)
    panes = panes_of(pictures, [own.parts for own in images], place)
    frames = len(images) if len(images) > 1 else first.grid[0]
    return place, panes, frames, spread(len(panes), frames, most)


def panes_of(pictures: Sequence[Image.Image], images: Sequence[Sequence[Grid]], place: Placement) -> list[Pane]:
    """The panes of one image, of one video, or of a video's frames that the model was given as separate images.

    Adjacent crops are joined again, as they lie in the picture.

    Args:
        pictures: the picture, or the frames of a video.
        images: the parts of the image or video; for several images, one per frame, the parts of each.
        place: where the parts lie, the same for all frames.

    Raises:
        InputError: the number of pictures or their sizes do not match.
    """
    if not pictures:
        raise InputError("there is no picture; pass the one that the model was given, or a video's frames as a list")
    frames = len(images) if len(images) > 1 else images[0][0][0]
    if len(pictures) < frames or (frames == 1 and len(pictures) > 1):
        raise InputError(f"the report is of {frames} frame(s), but {len(pictures)} picture(s) were given; pass the frames as a list")
    if any(frame.size != pictures[0].size for frame in pictures):
        raise InputError(f"the frames differ in size: {sorted({frame.size for frame in pictures})}")
    # A processor may have merged several frames of the video into each.
    shown = [pictures[(2 * frame + 1) * len(pictures) // (2 * frames)].convert("RGB") for frame in range(frames)]
    one_frame = [(1, *part[1:]) for part in images[0]]
    panes, first = [], 0
    for number, picture in enumerate(shown, start=1):
        own = _of_frame(picture, one_frame, place)
        name = f"frame {number}" if frames > 1 else ""
        panes += [pane.within(first, name) for pane in own]
        first += sum(math.prod(part) for part in one_frame)
    return panes


def _of_frame(picture: Image.Image, parts: Sequence[Grid], place: Placement) -> list[Pane]:
    ends = list(itertools.accumulate((math.prod(part) for part in parts), initial=0))
    numbers = [tuple(range(start, end)) for start, end in itertools.pairwise(ends)]
    if place.regions is None:
        return [
            _apart(part[1:], own, f"part {number}" if len(parts) > 1 else "")
            for number, (part, own) in enumerate(zip(parts, numbers, strict=True), start=1)
        ]
    crops = [(region, own) for region, own in zip(place.regions, numbers, strict=True) if region.shows == "crop"]
    joined = _joined(picture, crops)
    panes: list[Pane] = []
    for region, own in zip(place.regions, numbers, strict=True):
        if region.shows != "crop":
            panes.append(Pane(picture, region, own, "whole picture" if region.shows == "whole" else ""))
        elif joined:
            panes += joined
            joined = []
    return panes


def _apart(grid: tuple[int, int], tokens: tuple[int, ...], name: str) -> Pane:
    """Tokens over an empty background, because it is unknown where they lie."""
    rows, columns = grid
    region = Region(tuple(cells(rows, _APART)), tuple(cells(columns, _APART)))
    return Pane(Image.new("RGB", (columns * _APART, rows * _APART), _NEUTRAL), region, tokens, name)


def _joined(picture: Image.Image, crops: Sequence[tuple[Region, tuple[int, ...]]]) -> list[Pane]:
    """The crops as one pane if they lie in rows and columns, otherwise one by one."""
    across = sorted({region.columns for region, _ in crops})
    down = sorted({region.rows for region, _ in crops})
    by_place = {(region.rows, region.columns): own for region, own in crops}
    if len(by_place) != len(across) * len(down) or len(by_place) != len(crops):
        return [Pane(picture, region, own, f"crop {number}") for number, (region, own) in enumerate(crops, start=1)]
    region = Region(tuple(itertools.chain(*down)), tuple(itertools.chain(*across)), "crop")
    tokens: list[int] = []
    for rows in down:
        for row in range(len(rows)):
            for columns in across:
                own, width = by_place[rows, columns], len(columns)
                tokens += own[row * width : (row + 1) * width]
    name = f"{len(down)} x {len(across)} crops" if len(crops) > 1 else "crops, joined"
    return [Pane(picture, region, tuple(tokens), name)]
