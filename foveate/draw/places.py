"""Where the tokens of an image are drawn: where the model's family says, where the caller says, or apart from the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from foveate.errors import InputError, UnsupportedError
from foveate.families import Box, Region, regions_of
from foveate.families.kit.regions import cells, placed
from foveate.view import Grid

__all__ = ["Crop", "Placement", "place_of"]

Crop = Literal["center-square", "pad-square", "whole"] | tuple[float, float, float, float]
"""What a processor does before it cuts a picture into patches, as stated by the caller.

- `"center-square"`: the short side is resized, then a centred square is cut out (CLIP, LLaVA-1.5).
- `"pad-square"`: borders make the picture square (LLaVA-1.5 as in its training).
- `"whole"`: the whole picture, whatever its aspect ratio (Qwen-VL; SigLIP, which squeezes it).
- (left, top, right, bottom): exactly this box, in pixels of the picture.
"""


@dataclass(frozen=True)
class Placement:
    """Where an image's tokens lie.

    Attributes:
        regions: one per part, or `None` if unknown.
        why: why they are unknown.
    """

    regions: tuple[Region, ...] | None
    why: str = ""


def place_of(
    model: Any, processor: Any, crop: Crop | None, size: tuple[int, int], parts: Sequence[Grid], *, video: bool, pictures: int
) -> Placement:
    """Find where an image's tokens lie: from the model's family, or from the caller's `crop`.

    Args:
        model: the model, or its configuration; `None` if it is not available.
        processor: its processor; model and processor go together.
        crop: what the processor does instead, for an image with one part.
        size: (width, height) of the picture.
        parts: (t, h, w) of each part.
        video: whether the tokens are a video's.
        pictures: how many images the prompt has.

    Raises:
        InputError: model or processor without the other, or together with a crop; a crop that is invalid, or not enough.
    """
    if (model is None) != (processor is None):
        raise InputError("where tokens lie follows from a model and its processor together; pass both model=... and processor=...")
    if crop is not None and model is not None:
        raise InputError(
            f"crop={crop!r} was passed together with a model and its processor, which determine it already; pass one or the other"
        )
    if crop is not None:
        if len(parts) > 1:
            raise InputError(
                f"crop={crop!r} says where one grid lies, but the image has {len(parts)} parts; pass model=... and processor=..."
            )
        return Placement((_named(crop, size, parts[0][1:]),))
    if model is None:
        return Placement(None, "neither the model and its processor nor a crop were given")
    try:
        return Placement(regions_of(model, processor, size, parts, video=video, pictures=pictures))
    except UnsupportedError as error:
        return Placement(None, str(error))


def _named(crop: Crop, size: tuple[int, int], grid: tuple[int, int]) -> Region:
    box = _box(crop, size)
    rows, columns = grid
    return Region(placed(cells(rows, box.height / rows), box.top, 1.0), placed(cells(columns, box.width / columns), box.left, 1.0))


def _box(crop: Crop, size: tuple[int, int]) -> Box:
    width, height = size
    if crop == "whole":
        return Box(0, 0, width, height)
    if crop in ("center-square", "pad-square"):
        side = min(size) if crop == "center-square" else max(size)
        left, top = (width - side) / 2, (height - side) / 2
        return Box(left, top, left + side, top + side)
    if not isinstance(crop, tuple) or len(crop) != 4 or not all(isinstance(edge, int | float) and math.isfinite(edge) for edge in crop):
        raise InputError(
            f"crop={crop!r} must be 'center-square', 'pad-square', 'whole' or (left, top, right, bottom) in pixels of the picture"
        )
    box = Box(*crop)
    outside = box.right <= 0 or box.bottom <= 0 or box.left >= width or box.top >= height
    if box.width <= 0 or box.height <= 0 or outside:
        raise InputError(f"crop={crop} shows nothing of a picture of {width} x {height} pixels")
    return box
