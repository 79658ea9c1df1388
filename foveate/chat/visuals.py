"""What a question is about: one image, or the frames of a video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from foveate.files.limits import MAX_PIXELS

if TYPE_CHECKING:
    from foveate.video import Frames

__all__ = ["DEFAULT_FRAMES", "VisualInput", "read_visual"]

DEFAULT_FRAMES = 8
"""Frames taken from a video, evenly spread in time."""
VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp")
"""Endings by which a file that cannot be read is called a damaged video and not a damaged image."""


@dataclass(frozen=True)
class VisualInput:
    """One image, or the frames of a video.

    Attributes:
        pictures: at least one, all of one size.
        video: where they come from, unless it is an image.
    """

    pictures: tuple[Image.Image, ...]
    video: Frames | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pictures[0].size


def read_visual(path: Path, frames: int | None = None, max_pixels: int = MAX_PIXELS) -> tuple[VisualInput, list[str]]:
    """Read an image, or frames of a video: if `frames` are asked for, or if only a video reader knows the file.

    Args:
        path: the file.
        frames: how many frames of a video; `None` for `DEFAULT_FRAMES`, if it is a video.
        max_pixels: see `foveate.images.load_image`.

    Returns:
        what was read, and notes on what was done to it.

    Raises:
        TooManyPixelsError: it is larger than `max_pixels`.
        InputError: the file is neither, is damaged, or is beyond another limit.
    """
    from foveate.images import is_picture, load_image

    if frames is None and (is_picture(path) or not _may_be_video(path)):
        loaded = load_image(path, max_pixels=max_pixels)
        return VisualInput((loaded.image,)), list(loaded.notes)
    from foveate.video import read_frames

    found = read_frames(path, frames or DEFAULT_FRAMES, max_pixels=max_pixels)
    many = f"{len(found.images)} frames" if len(found.images) > 1 else "one frame"
    return VisualInput(found.images, found), [f"the model is shown {many} of {found.duration:.1f} seconds", *found.notes]


def _may_be_video(path: Path) -> bool:
    from foveate.video import is_video

    return path.suffix.lower() in VIDEO_ENDINGS or is_video(path)
