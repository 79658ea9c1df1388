"""What the recorded call of a vision encoder tells about its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foveate.errors import InputError
from foveate.families.layout import Encoding, Layout

__all__ = ["argument", "check_encoded", "clips", "rows_of_patches"]


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


def rows_of_patches(seen: Encoding, pixels: int) -> list[Layout]:
    """The layout of each picture of a call, whose tokens are `pixels` x `pixels` wide; `image_sizes` are those after resizing.

    Raises:
        InputError: the sizes are not known.
    """
    sizes = argument(seen, "image_sizes")
    pairs = sizes.tolist() if isinstance(sizes, Tensor) else sizes
    return [Layout(((1, int(height) // pixels, int(width) // pixels),)) for height, width in pairs]
