"""Read pictures and videos in the forms that data sets hold: embedded bytes, paths, decoded pictures, or arrays."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.errors import InputError
from foveate.images import decode_image, load_image, plain_image
from foveate.video import Frames, read_frames

__all__ = ["read_pictures", "read_video"]

_SECONDS_PER_FRAME = 1.0  # for an array of frames, which has no frame rate


def read_pictures(value: Any, folder: Path) -> tuple[Image.Image, ...]:
    """All pictures of a cell, as upright RGB.

    Args:
        value: a path, `{"bytes": ..., "path": ...}`, a PIL image, an array (h, w, 3) of bytes, or a list of any of these.
        folder: where relative paths start.

    Raises:
        InputError: there is no picture, or one of them cannot be read.
    """
    given = [value] if _is_one(value) else _listed(value, "image")
    return tuple(_picture(one, folder) for one in given)


def read_video(value: Any, frames: int, folder: Path) -> Frames:
    """Evenly spaced frames of a video.

    Args:
        value: a path, `{"bytes": ..., "path": ...}` of a video file, or a list or array of frames, each as `read_pictures` takes it;
            these are assumed to be one second apart.
        frames: the most frames.
        folder: where relative paths start.

    Raises:
        InputError: there is no video, or it cannot be read.
        UnsupportedError: a video file needs PyAV, which is not installed.
    """
    if isinstance(value, str | Path):
        return read_frames(_resolved(value, folder), frames)
    if isinstance(value, dict):
        return _embedded_video(value, frames, folder)
    given = _listed(value, "video")
    count = min(frames, len(given))
    chosen = [int((2 * number + 1) * len(given) / (2 * count)) for number in range(count)]
    pictures = tuple(_picture(given[index], folder) for index in chosen)
    if len({picture.size for picture in pictures}) > 1:
        raise InputError("the frames of the video differ in size")
    seconds = [index * _SECONDS_PER_FRAME for index in chosen]
    return Frames(pictures, tuple(seconds), len(given) * _SECONDS_PER_FRAME, len(given), Path("frames"))


def _embedded_video(value: dict[str, Any], frames: int, folder: Path) -> Frames:
    data, path = value.get("bytes"), value.get("path")
    if data is None:
        if not isinstance(path, str | Path) or not path:
            raise InputError("there is no video: neither bytes nor a path")
        return read_frames(_resolved(path, folder), frames)
    if not isinstance(data, bytes | bytearray | memoryview):
        raise InputError(f"a video holds {type(data).__name__} where the bytes of a file belong")
    with tempfile.TemporaryDirectory() as there:  # the reader opens a file several times
        file = Path(there) / "video"
        file.write_bytes(data)
        return read_frames(file, frames)


def _listed(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list | tuple | np.ndarray):
        raise InputError(f"there is no {what} but {type(value).__name__}")
    if not len(value):
        raise InputError(f"there is no {what}: the list is empty")
    return list(value)


def _is_one(value: Any) -> bool:
    return isinstance(value, str | Path | dict | Image.Image) or (isinstance(value, np.ndarray) and value.ndim == 3) or _is_pixels(value)


def _is_pixels(value: Any) -> bool:
    """Whether nested lists are the rows of one picture: (h, w, 3) numbers."""
    depth = 0
    while isinstance(value, list) and value:
        value, depth = value[0], depth + 1
    return depth == 3 and isinstance(value, int | float)


def _picture(value: Any, folder: Path) -> Image.Image:
    if value is None:
        raise InputError("an image is missing")
    if isinstance(value, Image.Image):
        return plain_image(value, "an image").image
    if isinstance(value, dict) and value.get("bytes") is not None:
        return decode_image(value["bytes"], str(value.get("path") or "the embedded image")).image
    path = value.get("path") if isinstance(value, dict) else value
    if isinstance(path, str | Path):
        return load_image(_resolved(path, folder)).image
    return plain_image(Image.fromarray(_pixels(value)), "an image").image


def _pixels(value: Any) -> np.ndarray:
    """(h, w, 3) bytes."""
    try:
        pixels = np.asarray(value)
    except (ValueError, TypeError, OverflowError):  # rows of different lengths, numbers beyond any type
        pixels = np.empty(0)
    if pixels.ndim != 3 or pixels.shape[-1] != 3 or not np.issubdtype(pixels.dtype, np.integer):
        raise InputError(f"an image is neither a path nor bytes nor an array (h, w, 3) of integers up to 255, but {type(value).__name__}")
    if not pixels.size:
        raise InputError(f"an image is an array {pixels.shape}; there is nothing to see in it")
    if pixels.min() < 0 or pixels.max() > 255:
        raise InputError(f"an image holds integers from {pixels.min()} to {pixels.max()}; they must be from 0 to 255")
    return pixels.astype(np.uint8)


def _resolved(path: str | Path, folder: Path) -> Path:
    try:
        return folder / Path(path).expanduser()
    except RuntimeError as error:  # a home folder of an unknown user
        raise InputError(f"cannot look at {str(path)!r:.200}: {error}") from error
