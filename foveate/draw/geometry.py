"""Which part of a picture the token grid lies over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from foveate.errors import InputError

__all__ = ["Box", "Crop", "processor_crop", "seen_box"]


class Box(NamedTuple):
    """A rectangle in the pixels of a picture; it may reach beyond the picture where a processor pads."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Pixels from left to right."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Pixels from top to bottom."""
        return self.bottom - self.top


Crop = Literal["auto", "center-square", "pad-square"] | tuple[float, float, float, float] | None
"""What a processor does before it cuts a picture into patches.

- `"center-square"`: the short side is resized, then a centred square is cut out (CLIP, LLaVA-1.5).
- `"pad-square"`: borders are added until the picture is square (LLaVA-1.5 as it was trained).
- `None`: the whole picture, whatever its shape (Qwen-VL; SigLIP, which squeezes it).
- (left, top, right, bottom): exactly this box, such as `processor_crop` returns.
- `"auto"`: `"center-square"` under a square grid, the whole picture under any other.
"""


def seen_box(size: tuple[int, int], crop: Crop, grid: tuple[int, int]) -> Box:
    """The part of a picture that the model saw.

    Args:
        size: (width, height) of the picture in pixels.
        crop: see `Crop`.
        grid: (rows, columns) of the token grid.

    Raises:
        InputError: if `crop` is none of the known ways or an empty box.
    """
    width, height = size
    if crop == "auto":
        crop = "center-square" if grid[0] == grid[1] else None
    if crop is None:
        return Box(0, 0, width, height)
    if crop in ("center-square", "pad-square"):
        side = min(size) if crop == "center-square" else max(size)
        left, top = (width - side) / 2, (height - side) / 2
        return Box(left, top, left + side, top + side)
    if isinstance(crop, str) or len(crop) != 4:
        raise InputError(f"crop={crop!r} must be 'auto', 'center-square', 'pad-square', None or (left, top, right, bottom)")
    box = Box(*crop)
    outside = box.right <= 0 or box.bottom <= 0 or box.left >= width or box.top >= height
    if box.width <= 0 or box.height <= 0 or outside:
        raise InputError(f"crop={tuple(crop)} shows nothing of a picture of {width} x {height} pixels")
    return box


def processor_crop(processor: Any, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """The box of a picture that a Hugging Face processor hands to the model, for `crop`.

    It reads the processor's settings (`do_pad`, `do_resize`, `size`, `do_center_crop`, `crop_size`) and repeats its rounding.

    Args:
        processor: a processor with an `image_processor`, or an image processor.
        size: (width, height) of the picture in pixels.

    Returns:
        (left, top, right, bottom) in pixels of the picture, or `None` for the whole picture.
    """
    settings = getattr(processor, "image_processor", processor)
    width, height = size
    left = top = 0.0
    if getattr(settings, "do_pad", False) and hasattr(settings, "pad_to_square"):
        side = max(size)
        left, top = -float((side - width) // 2), -float((side - height) // 2)
        width = height = side
    if not getattr(settings, "do_center_crop", False):
        return None if (width, height) == size else (left, top, left + width, top + height)
    resized = _resized(settings, width, height)
    crop = _entries(settings.crop_size)
    scale = (width / resized[0], height / resized[1])
    patch = getattr(processor, "patch_size", None) or 1
    # floor division as the processor does; what does not fill a patch at the right and lower edge is not seen either
    left += (resized[0] - crop["width"]) // 2 * scale[0]
    top += (resized[1] - crop["height"]) // 2 * scale[1]
    seen = (crop["width"] // patch * patch * scale[0], crop["height"] // patch * patch * scale[1])
    return (left, top, left + seen[0], top + seen[1])


def _resized(settings: Any, width: int, height: int) -> tuple[int, int]:
    if not getattr(settings, "do_resize", False):
        return width, height
    target = _entries(settings.size)
    if "shortest_edge" not in target:
        return target["width"], target["height"]
    short = target["shortest_edge"]
    longer = int(short * max(width, height) / min(width, height))
    return (short, longer) if width <= height else (longer, short)


def _entries(size: Any) -> dict[str, int]:
    """A size of a processor, which is a mapping or a dataclass with unset fields, as the entries that are set."""
    entries = size if isinstance(size, Mapping) else vars(size)
    return {name: int(value) for name, value in entries.items() if value is not None}
