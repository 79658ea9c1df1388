"""Pictures of any shape as LLaVA-NeXT and its kin show them: a small whole, then tiles joined to one unpadded rectangle.

The rectangle has a newline embedding behind each row. Newlines share the image's placeholder token, and they are not content.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.image_processing_utils import select_best_resolution

from foveate.errors import InputError, UnsupportedModelError
from foveate.families.layout import Encoding, Layout
from foveate.families.towers import CLASS_TOKENS
from foveate.view import Grid

__all__ = ["Picture", "check_class_token", "layouts", "side", "spatial_size"]


@dataclass(frozen=True)
class Picture:
    """What becomes of one picture.

    Attributes:
        side: rows and columns of patches in the whole picture and in each tile.
        tiles: (rows, columns) of tiles; `None` for a picture that is shown whole only.
        crop: (top, left, rows, columns) of the joined tiles that remain once padding is taken away.
        size: (rows, columns) that the rest is scaled to.
    """

    side: int
    tiles: tuple[int, int] | None = None
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    size: tuple[int, int] = (0, 0)

    def layout(self) -> Layout:
        """Whole and rectangle as parts, newlines left out."""
        whole: Grid = (1, self.side, self.side)
        first = self.side**2
        if self.tiles is None:
            return Layout((whole,), torch.arange(first), first + 1)
        rows, columns = self.size
        rectangle = torch.arange(rows * (columns + 1)).view(rows, columns + 1)[:, :columns].flatten()
        content = torch.cat([torch.arange(first), rectangle + first])
        return Layout((whole, (1, rows, columns)), content, first + rows * (columns + 1))

    @property
    def patches(self) -> int:
        """Patches that the tower sees."""
        return self.side**2 * (1 if self.tiles is None else 1 + self.tiles[0] * self.tiles[1])

    def fold(self, values: Tensor) -> Tensor:
        """Values (patches, c) of the tower in the order of content (n, c)."""
        whole, rest = values.split([self.side**2, values.shape[0] - self.side**2])
        if self.tiles is None:
            return whole
        joined = rest.view(*self.tiles, self.side, self.side, -1).permute(0, 2, 1, 3, 4).flatten(0, 1).flatten(1, 2)
        top, left, rows, columns = self.crop
        kept = joined[top : top + rows, left : left + columns]
        if self.size != (rows, columns):
            kept = F.interpolate(kept.permute(2, 0, 1)[None], self.size, mode="bilinear")[0].permute(1, 2, 0)
        return torch.cat([whole, kept.flatten(0, 1)])


def spatial_size(config: Any, height: int, width: int, *, most: int | None = None) -> Picture:
    """What becomes of a picture of `height` x `width` pixels.

    Args:
        config: the model's configuration.
        height: pixels of the picture before any processing.
        width: likewise.
        most: how many times the whole picture's patches the rectangle may have before it is scaled down; `None`: any.
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
        # The tower's features are scaled only where they are clearly too many.
        size = (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else size
    return Picture(patches, tiles, (top, left, rows, columns), size)


def side(config: Any) -> int:
    """Rows, and columns, of patches in one tile."""
    patches: int = config.vision_config.image_size // config.vision_config.patch_size
    return patches


def layouts(pictures: Sequence[Picture], seen: Encoding) -> list[Layout]:
    """Layouts of all pictures of one call, held against the features that came out.

    Raises:
        InputError: the model made another number of features.
    """
    found = [picture.layout() for picture in pictures]
    expected = tuple(layout.placeholders for layout in found)
    if expected != seen.lengths:
        raise InputError(
            f"image_sizes and the configuration say {list(expected)} features per image, but the model made {list(seen.lengths)}; "
            f"use image_grid_pinpoints, image_size and patch_size that belong together, and the model's own feature selection"
        )
    return found


def check_class_token(config: Any) -> None:
    """Refuse a tower whose patches do not form squares.

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
