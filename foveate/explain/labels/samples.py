"""What is asked: `LabelSample`, one question about pictures or a video, and `SampleSource`, where samples come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from PIL import Image

from foveate.video import Frames

__all__ = ["LabelSample", "SampleSource"]


@dataclass(frozen=True)
class LabelSample:
    """One question.

    Attributes:
        question: without surrounding space, not empty.
        pictures: upright RGB, at least one; the frames of a video.
        references: acceptable answers; none where the data have none.
        video: where the pictures come from, if that is a video.
    """

    question: str
    pictures: tuple[Image.Image, ...] = field(repr=False)
    references: tuple[str, ...] = ()
    video: Frames | None = field(default=None, repr=False)


class SampleSource(Protocol):
    """A numbered list of samples: the same number is the same sample in every process and every run."""

    def __len__(self) -> int:
        """How many samples there are."""

    def name(self, index: int) -> str:
        """What sample `index` is called, in the order of the numbers when sorted."""

    def read(self, index: int) -> LabelSample:
        """Sample `index`.

        Raises:
            InputError: it cannot be used; the message is the reason.
        """

    def describe(self) -> Mapping[str, Any]:
        """What a later run must share to go on with this one's work, JSON-able."""
