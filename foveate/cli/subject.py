"""What ask and explain share: reading the picture or video, loading the model, and notes about what the model saw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli import console
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.chat.models import Subject
    from foveate.chat.visuals import VisualInput

__all__ = ["cropping_notes", "enough_memory", "load", "read", "where_tokens_lie"]


def read(path: Path, frames: int | None, max_pixels: int) -> tuple[VisualInput, list[str]]:
    """The picture; or the frames of a video, which a file is if frames are asked for or only a video's reader knows it.

    Args:
        path: the file.
        frames: how many frames of a video; `None` for the default, if it is a video.
        max_pixels: see `load_image`.

    Returns:
        what is shown, and what was done to it.

    Raises:
        InputError: the file is neither, damaged, or beyond a limit.
    """
    from foveate.chat.visuals import read_visual

    return read_visual(path, frames, max_pixels)


@contextmanager
def enough_memory(subject: Subject) -> Iterator[None]:
    """Around running a model.

    Raises:
        InputError: the device runs out of memory.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(f"{subject.name} runs out of memory on {subject.device}; try --dtype bfloat16 or --device cpu") from error


def load(name: str, dtype: str, device: str, *, compress: bool, video: bool) -> Subject:
    """`load_model`, with a spinner on a terminal."""
    from foveate.chat.models import is_local, load_model

    if is_local(name):
        with console.spinner(f"loading {name}"):
            return load_model(name, dtype, device, compress=compress, video=video)
    # no spinner, because a download has progress bars of its own
    console.note(f"{name} is no folder here; it comes from the Hugging Face hub, unless it is cached")
    return load_model(name, dtype, device, compress=compress, video=video)


def cropping_notes(subject: Subject, shown: VisualInput, images: Sequence[Any], visual: int) -> list[str]:
    """A note if the processor cuts off so much of the picture that it may matter; none if that is unknown.

    Args:
        subject: the model.
        shown: what it was asked about.
        images: what a report, or a relevance, says of it; empty where no method ran.
        visual: the visual tokens of the prompt.
    """
    from foveate.errors import InputError, UnsupportedError, UnsupportedModelError

    side = math.isqrt(visual)
    parts, video = (images[0].parts, images[0].kind == "video") if images else (((1, side, side),), False)
    try:
        regions = _regions(subject, shown, parts, video, len(images))
    except (InputError, UnsupportedError, UnsupportedModelError):  # the drawing says so
        return []
    boxes, (width, height) = [region.box for region in regions], shown.size
    left, top = max(0.0, min(box.left for box in boxes)), max(0.0, min(box.top for box in boxes))
    right, bottom = min(width, max(box.right for box in boxes)), min(height, max(box.bottom for box in boxes))
    seen = (right - left) * (bottom - top) / (width * height)
    return [] if seen > 0.9 else [f"this model's processor crops: it sees the middle {seen:.0%} of the picture"]


def where_tokens_lie(subject: Subject, shown: VisualInput, images: Sequence[Any]) -> tuple[dict[str, Any], list[str]]:
    """What says where the tokens lie, as options of the functions that draw them, and a note.

    The picture and the processor are those that the model was given. If its family expects other parts, the family is mistaken. That
    must not cost the answer, so the tokens are drawn beside the picture.

    Args:
        subject: the model.
        shown: what it was asked about.
        images: what a report, or a relevance, says of it.
    """
    from foveate.errors import InputError, UnsupportedError

    if not images:
        return {}, []
    try:
        _regions(subject, shown, images[0].parts, images[0].kind == "video", len(images))
    except UnsupportedError:  # the drawing says so
        pass
    except InputError as error:
        return {}, [f"the tokens are drawn beside the picture: {error}"]
    return {"model": subject.model, "processor": subject.processor}, []


def _regions(subject: Subject, shown: VisualInput, parts: Sequence[Any], video: bool, pictures: int) -> Sequence[Any]:
    from foveate.families import regions_of

    return regions_of(subject.model, subject.processor, shown.size, parts, video=video, pictures=max(1, pictures))
