"""What the recorded call of a vision encoder tells about its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foveate.errors import InputError
from foveate.families.kit.layout import Encoding, Layout

__all__ = ["argument", "blocks", "check_encoded", "clips", "fold_rows_of_patches", "rows_of_patches"]


def argument(seen: Encoding, name: str) -> Any:
    """An argument of the encoder's call.

    Raises:
        InputError: it is not there, because the features were made before `compress` or elsewhere.
    """
    value = seen.arguments.get(name)
    if value is None:
        raise InputError(
            f"the {seen.kind}'s {name} is not known, so it cannot be told which of its tokens stand where; pass {name} and the "
            f"pixels to the model while the handle is in place, not features that were computed earlier"
        )
    return value


def clips(seen: Encoding) -> tuple[int, int]:
    """How many videos a call encoded, and of how many frames each.

    Raises:
        InputError: the pixels are not known.
    """
    # Older transformers call them as they call an image's.
    name = "pixel_values" if "pixel_values" in seen.arguments else "pixel_values_videos"
    videos, frames = argument(seen, name).shape[:2]
    return int(videos), int(frames)


def check_encoded(wanted: int, seen: Sequence[Encoding]) -> None:
    """Hold the placeholders that were read off the prompt against the features that were made for them.

    Raises:
        InputError: there are more or fewer.
    """
    made = sum(sum(call.lengths) for call in seen)
    if wanted != made:
        raise InputError(
            f"the prompt has {wanted} image placeholders, and the model made {made} features for them; "
            f"pass the pixels with the prompt, as the model's processor makes both"
        )


def blocks(values: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Values (crops * rows * columns, c) of grids of patches as (crops, tokens, side * side, c), tokens of `side` x `side` patches each."""
    squares = values.view(-1, rows // side, side, columns // side, side, values.shape[-1])
    return squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def rows_of_patches(seen: Encoding, pixels: int) -> list[Layout]:
    """The layout of each picture of a call, whose tokens are `pixels` x `pixels` wide; `image_sizes` are those after resizing.

    Raises:
        InputError: the sizes are not known.
    """
    return [Layout(((1, rows, columns),)) for rows, columns in _rows_and_columns(seen, pixels)]


def fold_rows_of_patches(signal: str, values: Tensor, seen: Encoding, patch: int, merge: int = 1) -> list[Tensor]:
    """See `Family.fold`; patches of `patch` pixels, `merge` x `merge` of which become one token.

    Raises:
        InputError: the sizes are not known.
    """
    sizes = _rows_and_columns(seen, patch)
    found = []
    for part, (rows, columns) in zip(values.split([rows * columns for rows, columns in sizes]), sizes, strict=True):
        (joined,) = blocks(part, rows, columns, merge)
        # All pictures of a call are one sequence, and the mean of its rows was taken over all of them.
        found.append((joined / part.sum()).mean(1) if signal == "tower_attention" else joined.flatten(1))
    return found


def _rows_and_columns(seen: Encoding, pixels: int) -> list[tuple[int, int]]:
    sizes = argument(seen, "image_sizes")
    pairs = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return [(int(height) // pixels, int(width) // pixels) for height, width in pairs]
