"""What transformers' processors do to a picture before it is cut into patches, as a `ProcessedImage` or as `Regions`."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from foveate.errors import InputError, UnsupportedError
from foveate.families.kit.regions import Box, ProcessedImage, RegionRequest, Regions

__all__ = [
    "SQUARE", "centred", "check_resizing", "entries", "from_its_module", "known_processor", "square", "squeezed", "tiled_canvas", "tiles",
    "whole_picture",
]  # fmt: skip

SQUARE = ("CLIPImageProcessor", "LlavaImageProcessor", "SiglipImageProcessor")
"""Classes that turn each picture into one picture, as in `centred`."""


def squeezed(size: tuple[int, int], pixels: tuple[int, int]) -> ProcessedImage:
    """The whole picture, resized to `pixels` (width, height) whatever its aspect ratio."""
    return ProcessedImage(Box(0, 0, *size), pixels)


def whole_picture(request: RegionRequest, *names: str) -> Regions:
    """A picture that is resized to a whole number of tokens per side, and shown from edge to edge.

    Raises:
        UnsupportedError: the processor is not of one of these classes, or does not resize.
        InputError: the picture's aspect ratio does not match its grid of tokens.
    """
    known_processor(request.settings, *names)
    check_resizing(request.settings)
    (width, height), (rows, columns) = request.size, request.only
    # Each side is rounded to whole tokens separately.
    if max(rows - 1, 0) * width > (columns + 1) * height or max(columns - 1, 0) * height > (rows + 1) * width:
        raise InputError(
            f"a picture of {width} x {height} pixels does not become {rows} rows and {columns} columns of tokens; pass the picture "
            "that the model was given, with the same model and processor"
        )
    return (squeezed(request.size, request.only[::-1]).region(request, request.only),)


def square(request: RegionRequest) -> ProcessedImage:
    """The picture gets borders that make it square, then it is resized. `size` of the settings has a height and a width."""
    longest, (width, height) = max(request.size), request.size
    left, top = -((longest - width) // 2), -((longest - height) // 2)
    target = entries(request.settings.size)
    return ProcessedImage(Box(left, top, left + longest, top + longest), (target["width"], target["height"]))


def centred(request: RegionRequest) -> ProcessedImage:
    """As CLIP's, SigLIP's and LLaVA's processors do: borders, resizing, and a centre crop, each if the settings ask for it."""
    settings, (width, height) = request.settings, request.size
    left = top = 0.0
    if getattr(settings, "do_pad", False) and hasattr(settings, "pad_to_square"):
        side = max(request.size)
        left, top = -float((side - width) // 2), -float((side - height) // 2)
        width = height = side
    made = _resized(settings, width, height)
    across, down = width / made[0], height / made[1]
    if not getattr(settings, "do_center_crop", False):
        return ProcessedImage(Box(left, top, left + width, top + height), made)
    crop = entries(settings.crop_size)
    left += (made[0] - crop["width"]) // 2 * across
    top += (made[1] - crop["height"]) // 2 * down
    return ProcessedImage(Box(left, top, left + crop["width"] * across, top + crop["height"] * down), (crop["width"], crop["height"]))


def _resized(settings: Any, width: int, height: int) -> tuple[int, int]:
    if not getattr(settings, "do_resize", False):
        return width, height
    target = entries(settings.size)
    if set(target) == {"height", "width"}:
        return target["width"], target["height"]
    if set(target) != {"shortest_edge"}:
        raise UnsupportedError(
            f"{type(settings).__name__} resizes to {target}; only a height and a width, or a shortest edge alone, are known"
        )
    short = target["shortest_edge"]
    longer = int(short * max(width, height) / min(width, height))
    return (short, longer) if width <= height else (longer, short)


# Reading settings.


def entries(size: Any) -> dict[str, int]:
    """The entries that are set of a processor's size, which is a mapping, or a dataclass with unset fields."""
    found = size if isinstance(size, Mapping) else vars(size)
    return {name: int(value) for name, value in found.items() if value is not None}


def known_processor(settings: Any, *names: str) -> None:
    """Check that the processor class is known, whichever library it uses.

    Raises:
        UnsupportedError: it is not known, so neither is what it does to pictures.
    """
    own = {kind.__name__.removesuffix("Pil").removesuffix("Fast") for kind in type(settings).__mro__}
    if own.isdisjoint(names):
        raise UnsupportedError(
            f"it is not known what {type(settings).__name__} does to a picture, so neither is where its tokens lie; "
            f"known for this model: {', '.join(names)}"
        )


def check_resizing(settings: Any) -> None:
    """Check that pictures are resized.

    Raises:
        UnsupportedError: they are not, so what the model sees depends on their size.
    """
    if not getattr(settings, "do_resize", True):
        raise UnsupportedError(f"{type(settings).__name__} has do_resize=False; where tokens lie is only known for resized pictures")


def from_its_module(settings: Any, name: str) -> Callable[..., Any]:
    """A function from the module of the processor's class, or of one of its base classes: the one that the processor calls.

    Raises:
        UnsupportedError: this version of the library has none.
    """
    for kind in type(settings).__mro__:
        found = getattr(sys.modules.get(kind.__module__), name, None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise UnsupportedError(f"the module of {type(settings).__name__} has no {name}, so it is not known how it cuts a picture")


# Pictures cut into crops.


def tiles(
    request: RegionRequest, arrangement: tuple[int, int], whole: Literal["first", "last"], pixels: tuple[int, int], cell: float | None
) -> Regions:
    """The picture squeezed into a rectangle of crops, in row-major order, and once more as a whole.

    Args:
        request: the request.
        arrangement: rows and columns of crops; (1, 1) and (0, 0) mean the whole picture alone.
        whole: whether the whole picture comes before the crops or after them.
        pixels: (width, height) of each crop.
        cell: pixels per token; `None`: the tokens fill a crop.

    Raises:
        InputError: the image has other parts.
    """
    down, across = arrangement
    single = down * across <= 1
    if len(request.parts) != (1 if single else down * across + 1):
        raise request.misfit("one crop" if single else f"{down} x {across} crops and the whole picture")
    grids = {part[1:] for part in request.parts}
    if len(grids) != 1:
        raise request.misfit("crops of one size")
    (grid,) = grids
    picture = squeezed(request.size, pixels).region(request, grid, cell)
    if single:
        return (picture,)
    width, height = request.size[0] / across, request.size[1] / down
    crops = tuple(
        replace(
            ProcessedImage(Box(column * width, row * height, (column + 1) * width, (row + 1) * height), pixels).region(request, grid, cell),
            shows="crop",
        )
        for row, column in itertools.product(range(down), range(across))
    )
    one = (replace(picture, shows="whole"),)
    return (*one, *crops) if whole == "first" else (*crops, *one)


def tiled_canvas(request: RegionRequest, cell: float | None = None) -> Regions:
    """The crops of GOT-OCR's image processor, then the whole picture; only the whole picture if there is one part.

    Args:
        request: the request.
        cell: pixels per token; `None`: the tokens fill a crop.

    Raises:
        UnsupportedError: the processor does not resize.
        InputError: it does not make these parts.
    """
    settings = request.settings
    check_resizing(settings)
    size = entries(settings.size)
    arrangement = (1, 1)
    if len(request.parts) > 1:
        arrange = from_its_module(settings, "get_optimal_tiled_canvas")
        across, down = arrange(request.size[::-1], (size["height"], size["width"]), settings.min_patches, settings.max_patches)
        arrangement = (down, across)
    return tiles(request, arrangement, "last", (size["width"], size["height"]), cell)
