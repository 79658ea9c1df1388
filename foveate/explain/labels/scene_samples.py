"""Questions about the scenes that the embedded model was trained on, in unlimited number."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any

from foveate.demo.scenes import VERSION, Scene, scene
from foveate.demo.scenes.labels import GRID
from foveate.errors import InputError
from foveate.explain.labels.samples import LabelSample

__all__ = ["SceneSamples"]

DEFAULT_LIMIT = 4000
"""The default number of questions."""


class SceneSamples:
    """All questions of every kind about training scenes, one scene after the other. Held-out scenes are never used.

    Args:
        limit: how many questions.
        first: the number of the first scene.
        side: patches per side of the scenes; see `foveate.demo.scene`.
        spelled: also accept answers in single letters, as a pretrained decoder writes what it reads.

    Raises:
        InputError: scikit-learn, which ships the background photographs, is not installed.
    """

    def __init__(self, limit: int | None = None, first: int | None = None, side: int = GRID, *, spelled: bool = False) -> None:
        self._limit, self._first = limit or DEFAULT_LIMIT, first or 0
        self._side, self._spelled = side, spelled
        try:
            self._ends = self._count()
        except ImportError as error:
            raise InputError(f"drawing scenes needs scikit-learn, which is not installed ({error}): pip install 'foveate[demo]'") from error

    def __len__(self) -> int:
        return self._limit

    def name(self, index: int) -> str:
        """The numbers of the scene and of the question."""
        number, question = self._place(index)
        return f"scene-{number:07d}-{question:02d}"

    def read(self, index: int) -> LabelSample:
        """Read one question; questions about one scene share its picture."""
        number, question = self._place(index)
        drawn = _scene(number, self._side)
        asked = drawn.questions[question]
        return LabelSample(asked.text, (drawn.image,), (asked.answer, *([" ".join(asked.answer)] if self._spelled else [])))

    def describe(self) -> Mapping[str, Any]:
        """Which scenes, of which version."""
        described = {"data": "scenes", "split": "train", "version of the scenes": VERSION, "first scene": self._first}
        smaller = {"patches per side": self._side} if self._side < GRID else {}
        return {**described, **smaller, "samples": self._limit}

    def _count(self) -> list[int]:
        """The number of the last question of each scene; only drawing a scene shows how many it has."""
        counts: list[int] = []
        total = 0
        while total < self._limit:
            counts.append(len(scene(self._first + len(counts), side=self._side).questions))
            total += counts[-1]
        return list(accumulate(counts))

    def _place(self, index: int) -> tuple[int, int]:
        position = bisect_right(self._ends, index)
        return self._first + position, index - (self._ends[position - 1] if position else 0)


@lru_cache(maxsize=2)
def _scene(number: int, side: int) -> Scene:
    return scene(number, side=side)
