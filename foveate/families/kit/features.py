"""What the recorded call of a vision encoder reveals about its images."""

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
        InputError: it is missing, because the features were made before `compress` or elsewhere.
    """
    value = seen.arguments.get(name)
    if value is None:
        raise InputError(
            f"the {seen.kind}'s {name} is not known, so the positions of its tokens are not known either; pass {name} and the "
            f"pixels to the model while the handle is in place, not features that were computed earlier"
        )
    return value


def clips(seen: Encoding) -> tuple[int, int]:
    """How many videos a call encoded, and how many frames each has.

    Raises:
        InputError: the pixels are not known.
    """
    # Older versions of transformers name them like those of an image.
    name = "pixel_values" if "pixel_values" in seen.arguments else "pixel_values_videos"
    videos, frames = argument(seen, name).shape[:2]
    return int(videos), int(frames)


def check_encoded(wanted: int, seen: Sequence[Encoding]) -> None:
    """Compare the number of placeholders in the prompt with the number of features made for them.

    Raises:
        InputError: the numbers differ.
    """
    made = sum(sum(call.lengths) for call in seen)
    if wanted != made:
        raise InputError(
            f"the prompt has {wanted} image placeholders, and the model made {made} features for them; "
            f"pass the pixels with the prompt, as the model's processor makes both"
        )


def blocks(values: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Rearrange patch values (crops * rows * columns, c) to (crops, tokens, side * side, c), with `side` x `side` patches per token."""
    squares = values.view(-1, rows // side, side, columns // side, side, values.shape[-1])
    return squares.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def rows_of_patches(seen: Encoding, pixels: int) -> list[Layout]:
    """The layout of each picture of a call, with tokens of `pixels` x `pixels`; `image_sizes` are those after resizing.

    Raises:
        InputError: the sizes are not known.
    """
    return [Layout(((1, rows, columns),)) for rows, columns in _rows_and_columns(seen, pixels)]


def fold_rows_of_patches(signal: str, values: Tensor, seen: Encoding, patch: int, merge: int = 1) -> list[Tensor]:
    """See `Family.fold`; each token is made of `merge` x `merge` patches of `patch` pixels.

    Raises:
        InputError: the sizes are not known.
    """
    sizes = _rows_and_columns(seen, patch)
    found = []
    for part, (rows, columns) in zip(values.split([rows * columns for rows, columns in sizes]), sizes, strict=True):
        (joined,) = blocks(part, rows, columns, merge)
        # All pictures of a call form one sequence, so the mean over rows was taken over all of them.
        found.append((joined / part.sum()).mean(1) if signal == "tower_attention" else joined.flatten(1))
    return found


def _rows_and_columns(seen: Encoding, pixels: int) -> list[tuple[int, int]]:
    sizes = argument(seen, "image_sizes")
    pairs = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return [(int(height) // pixels, int(width) // pixels) for height, width in pairs]
