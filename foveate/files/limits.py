"""How large a picture or a frame may be: the limits, and the checks that hold pictures to them."""

from __future__ import annotations

import math
from numbers import Real
from pathlib import Path

from foveate.errors import InputError

__all__ = ["MAX_ASPECT", "MAX_PIXELS", "TooManyPixelsError", "check_limit", "check_size"]

MAX_PIXELS = 64_000_000
"""Most pixels of a picture that is decoded, unless the caller allows more: about 256 MB as RGBA."""

MAX_ASPECT = 100
"""Longest side over shortest. A 1 x 20000 strip has few pixels, but a processor that scales its short side to 336 needs gigabytes."""


class TooManyPixelsError(InputError):
    """Pictures beyond a limit that the caller can raise."""


def check_limit(name: str, value: object) -> None:
    """Check that a limit is a usable number.

    Args:
        name: of the argument, for the message.
        value: what was given.

    Raises:
        InputError: it is not a number, not finite, or below 1.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < 1:
        raise InputError(f"{name}={value!r} must be a finite number from 1 upwards")


def check_size(path: Path, size: tuple[int, int], max_pixels: float, max_aspect: float, *, each: str = "") -> None:
    """Refuse what is too large, too thin, or empty.

    Args:
        path: the file, for the message.
        size: width and height as held in memory.
        max_pixels: largest width times height.
        max_aspect: largest ratio of the longer to the shorter side.
        each: what has this size, such as " a frame", if it is not the whole file.

    Raises:
        TooManyPixelsError: there are too many pixels.
        InputError: there are no pixels, or one side is far longer than the other.
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
            f"a model would enlarge its short side to hundreds of pixels, so crop it first"
        )
