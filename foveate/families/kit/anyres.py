"""Pictures of any shape as LLaVA-NeXT and similar models show them: a small whole picture, then tiles joined to an unpadded rectangle.

The rectangle has a newline embedding after each row. Newlines share the image's placeholder token, and they are not content.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_processing_utils import select_best_resolution

from foveate.errors import InputError, UnsupportedError, UnsupportedModelError
from foveate.families.kit.layout import Encoding, Layout
from foveate.families.kit.processors import check_resizing, entries, known_processor, squeezed
from foveate.families.kit.regions import Region, RegionRequest, Regions, Span, placed
from foveate.families.kit.towers import CLASS_TOKENS
from foveate.view import Grid

__all__ = ["Tiling", "check_class_token", "layouts", "regions", "side", "spatial_size"]


@dataclass(frozen=True)
class Tiling:
    """How one picture is divided into tiles.

    Attributes:
        side: rows and columns of patches in the whole picture and in each tile.
        tiles: (rows, columns) of tiles; `None` for a picture that is shown only whole.
        crop: (top, left, rows, columns) of the joined tiles that remain once padding is removed.
        size: (rows, columns) that the remainder is scaled to.
    """

    side: int
    tiles: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    size: tuple[int, int] = (0, 0)

    def layout(self) -> Layout:
        """The whole picture and the rectangle as parts, without newlines; only the whole picture if nothing is left of the rectangle."""
        whole: Grid = (1, self.side, self.side)
        first = self.side**2
        if self.tiles is None:
            return Layout((whole,), torch.arange(first), first + 1)
        rows, columns = self.size
        if not rows * columns:  # so far from square that every row, or column, of patches has padding: only newlines remain
            return Layout((whole,), torch.arange(first), first + rows * (columns + 1))
        rectangle = torch.arange(rows * (columns + 1)).view(rows, columns + 1)[:, :columns].flatten()
        content = torch.cat([torch.arange(first), rectangle + first])
        return Layout((whole, (1, rows, columns)), content, first + rows * (columns + 1))

    @property
    def patches(self) -> int:
        """Patches that the tower sees."""
        return self.side**2 * (1 if self.tiles is None else 1 + self.tiles[0] * self.tiles[1])

    def fold(self, values: Tensor) -> Tensor:
        """Values (patches, c) in the tower's order, rearranged to the order of content (n, c)."""
        whole, rest = values.split([self.side**2, values.shape[0] - self.side**2])
        if self.tiles is None or not math.prod(self.size):
            return whole
        joined = rest.view(*self.tiles, self.side, self.side, -1).permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
        top, left, rows, columns = self.crop
        kept = joined[top : top + rows, left : left + columns]
        if self.size != (rows, columns):
            kept = F.interpolate(kept.permute(2, 0, 1)[None], self.size, mode="bilinear")[0].permute(1, 2, 0)
        return torch.cat([whole, kept.flatten(0, 1)])


def spatial_size(config: Any, height: int, width: int, *, most: int | None = None) -> Tiling:
    """The tiling of a picture of `height` x `width` pixels.

    Args:
        config: the model's configuration.
        height: pixels of the picture before any processing.
        width: likewise.
        most: how many times as many patches as the whole picture the rectangle may have before it is scaled down; `None`: no limit.
    """
    pixels, patches = config.vision_config.image_size, side(config)
    best = select_best_resolution((height, width), config.image_grid_pinpoints)
    tiles = (best[0] // pixels, best[1] // pixels)
    full_rows, full_columns = tiles[0] * patches, tiles[1] * patches
    rows, columns, top, left = full_rows, full_columns, 0, 0
    if width / height > full_columns / full_rows:
        top = (full_rows - int(round(height * (full_columns / width), 7))) // 2
        rows -= 2 * top
    else:
        left = (full_columns - int(round(width * (full_rows / height), 7))) // 2
        columns -= 2 * left
    size = (rows, columns)
    if most is not None:
        ratio = math.sqrt(rows * columns / (most * patches**2))
        # The tower's features are scaled only if there are clearly too many.
        size = (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else size
    return Tiling(patches, tiles, (top, left, rows, columns), size)


def side(config: Any) -> int:
    """Rows (and columns) of patches in one tile."""
    patches: int = config.vision_config.image_size // config.vision_config.patch_size
    return patches


def layouts(pictures: Sequence[Tiling], seen: Encoding) -> list[Layout]:
    """Layouts of all pictures of one call, checked against the features that it returned.

    Raises:
        InputError: the model returned another number of features.
    """
    found = [picture.layout() for picture in pictures]
    expected = tuple(layout.placeholders for layout in found)
    if expected != seen.lengths:
        raise InputError(
            f"image_sizes and the configuration say {list(expected)} features per image, but the model made {list(seen.lengths)}; "
            f"use matching image_grid_pinpoints, image_size and patch_size, and the model's own feature selection"
        )
    return found


def check_class_token(config: Any) -> None:
    """Refuse a tower whose patches do not form a square.

    Raises:
        UnsupportedModelError: an unknown tower, or a class token among the patches.
    """
    tower, strategy = config.vision_config.model_type, config.vision_feature_select_strategy
    if tower not in CLASS_TOKENS:
        raise UnsupportedModelError(f"vision tower {tower!r} is not supported here; towers that are: {', '.join(CLASS_TOKENS)}")
    if (strategy == "default") != bool(CLASS_TOKENS[tower]):
        wanted = "default" if CLASS_TOKENS[tower] else "full"
        raise UnsupportedModelError(
            f"vision_feature_select_strategy={strategy!r} does not leave the patches of {tower} as a square; it takes {wanted!r}"
        )


def regions(request: RegionRequest, picture: Tiling, *processors: str) -> Regions:
    """Where the whole and the rectangle lie in a picture.

    Args:
        request: the request.
        picture: the picture's tiling in the model.
        processors: the known classes of image processors.

    Raises:
        UnsupportedError: the processor cuts its tiles in a way that is not known.
    """
    settings, patch = request.settings, request.config.vision_config.patch_size
    known_processor(settings, *processors)
    pixels = _tile(settings)
    grid = (picture.side, picture.side)
    whole = squeezed(request.size, (pixels, pixels)).region(request, grid, patch)
    if picture.tiles is None or not math.prod(picture.size):
        return (whole,)
    if [list(point) for point in settings.image_grid_pinpoints] != [list(point) for point in request.config.image_grid_pinpoints]:
        raise UnsupportedError(
            "the processor and the model's configuration differ in image_grid_pinpoints, so tiles do not lie where the model expects them"
        )
    return (replace(whole, shows="whole"), replace(_rectangle(request, picture, pixels, patch), shows="crop"))


def _tile(settings: Any) -> int:
    """Side in pixels of a tile, and of the whole picture."""
    check_resizing(settings)
    size = entries(settings.size)
    crop = entries(settings.crop_size) if settings.crop_size and settings.do_center_crop else size
    sides = {*size.values(), *crop.values()}
    if len(sides) != 1:
        raise UnsupportedError(f"{type(settings).__name__} makes tiles of {size} and cuts {crop} out of them; only equal sides are known")
    return int(sides.pop())


def _rectangle(request: RegionRequest, picture: Tiling, pixels: int, patch: int) -> Region:
    """The joined tiles without their padding, in which the picture keeps its aspect ratio."""
    assert picture.tiles is not None
    width, height = request.size
    down, across = (count * pixels for count in picture.tiles)
    # As transformers resizes: the side that does not fill the canvas is rounded up.
    if across / width < down / height:
        made = (across, min(math.ceil(height * across / width), down))
    else:
        made = (min(math.ceil(width * down / height), across), down)
    left, top = (across - made[0]) // 2, (down - made[1]) // 2
    first_row, first_column, rows, columns = picture.crop
    vertical = _patches(first_row, rows, picture.size[0], picture.side, pixels, patch)
    horizontal = _patches(first_column, columns, picture.size[1], picture.side, pixels, patch)
    return Region(placed(vertical, -top * height / made[1], height / made[1]), placed(horizontal, -left * width / made[0], width / made[0]))


def _patches(first: int, patches: int, count: int, side: int, pixels: int, patch: int) -> list[Span]:
    """`count` tokens over the patches from `first`, in pixels of the joined tiles; a tower may not see the last pixels of a tile."""

    def edge(place: float, tile: int) -> float:
        return tile * pixels + (place - tile * side) * patch

    places = [first + patches * number / count for number in range(count + 1)]
    return [
        (edge(low, math.floor(low / side + 1e-9)), edge(high, math.ceil(high / side - 1e-9) - 1))
        for low, high in itertools.pairwise(places)
    ]
