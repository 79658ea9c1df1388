"""How large a picture or a frame may be: the limits themselves, and the refusals of what lies beyond them."""

from __future__ import annotations

import math
from numbers import Real
from pathlib import Path

from foveate.errors import InputError

__all__ = ["MAX_ASPECT", "MAX_PIXELS", "TooManyPixelsError", "check_limit", "check_size"]

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded unless the caller allows more: about 256 MB as RGBA."""

MAX_ASPECT = 100
"""Longest side over shortest. A 1 x 20000 strip has few pixels, but a processor that makes its short side 336 needs gigabytes for it."""


class TooManyPixelsError(InputError):
    """Pictures beyond a limit that the caller can raise."""


def check_limit(name: str, value: object) -> None:
    """See that a limit is a number that limits something.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Raises:
        InputError: it is no number, not finite, or below 1.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 1:
        raise InputError(f"{name}={value!r} must be a finite number from 1 upwards")


def check_size(path: Path, size: tuple[int, int], max_pixels: float, max_aspect: float, *, each: str = "") -> None:
    """Refuse what is too large, too thin, or empty.

    Args:
        path: the file, for the message.
        size: width and height as they will be held in memory.
        max_pixels: width times height at most.
        max_aspect: longest over shortest side at most.
        each: what has this size, such as " a frame", if it is not the whole file.

    Raises:
        TooManyPixelsError: there are too many pixels.
        InputError: there are none, or one side is far longer than the other.
    """
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{path} is {width} x {height} pixels; there is nothing to see in it")
    if width * height > max_pixels:
        shrink = math.sqrt(max_pixels / (width * height))
        raise TooManyPixelsError(
            f"{path} is {width} x {height}, {width * height / 1e6:.1f} megapixels{each}; the limit is {max_pixels / 1e6:g}: "
            f"scale it to at most {max(1, int(width * shrink))} x {max(1, int(height * shrink))}, or raise max_pixels"
        )
    if max(size) > max_aspect * min(size):
        raise InputError(
            f"{path} is {width} x {height}: one side is {max(size) / min(size):.0f} times the other, the limit is {max_aspect:g}; "
            f"a model would blow its short side up to hundreds of pixels, so crop it first"
        )
