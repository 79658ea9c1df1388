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
        question: not empty, without surrounding space.
        pictures: upright RGB, at least one; for a video, its frames.
        references: acceptable answers; empty if the data have none.
        video: the video that the pictures come from, if any.
    """

    question: str
    pictures: tuple[Image.Image, ...] = field(repr=False)
    references: tuple[str, ...] = ()
    video: Frames | None = field(default=None, repr=False)


class SampleSource(Protocol):
    """A numbered list of samples: a number means the same sample in every process and every run."""

    def __len__(self) -> int:
        """How many samples there are."""

    def name(self, index: int) -> str:
        """The name of sample `index`; sorted names are in the order of the numbers."""

    def read(self, index: int) -> LabelSample:
        """Read sample `index`.

        Raises:
            InputError: the sample cannot be used; the message is the reason.
        """

    def describe(self) -> Mapping[str, Any]:
        """What a later run must share to resume this one, JSON-serialisable."""
