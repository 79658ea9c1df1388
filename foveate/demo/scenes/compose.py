"""Scenes that the embedded model can see, with questions, right answers and the patches that each answer needs.

    from foveate.demo.scenes import scene
    example = scene(7, split="held_out")
    example.image, example.questions[0].text, example.questions[0].answer

A scene is a crop of a photograph with coloured shapes, one or two signs and often a handwritten digit. Training and held-out scenes share
no random stream, no part of a photograph and no handwritten digit; `backgrounds` says where those come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foveate.demo.scenes.backgrounds import Split
from foveate.demo.scenes.drawing import Item, paint, place
from foveate.demo.scenes.labels import GRID, PATCH, PatchGrid, overlap, square
from foveate.demo.scenes.questions import FAMILIES, AskedQuestion, ask, describe

__all__ = ["FAMILIES", "VERSION", "Question", "Scene", "Split", "relevant_patches", "scene"]

VERSION = 2  # of how a seed becomes a scene: raised whenever the digest of the evaluation set changes
SIDE = GRID * PATCH  # pixels
_STREAMS: dict[Split, int] = {"train": 0, "held_out": 1}
SMALL = 4.0  # visual tokens: a thing of at most this size counts as small
CROWDED = 7  # things: a scene with at least this many counts as crowded
TOUCHED = 30  # pixels of 196 that a patch must share with a thing to be relevant


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    Attributes:
        text: the question.
        answer: the right answer, in lower case.
        family: one of `FAMILIES`.
        relevant: (24, 24) booleans, rows first: the patches that show what the question is about. None is set if the answer is that
            there is no such thing.
        smallest: size in visual tokens (pixels over 196) of the smallest thing that the question is about; 0 if there is none.
        things: how many things the scene contains.
    """

    text: str
    answer: str
    family: str
    relevant: NDArray[np.bool_] = field(repr=False, compare=False)
    smallest: float = 0.0
    things: int = 0

    @property
    def tags(self) -> tuple[str, ...]:
        """How hard it is: `small` or `large` by what it is about, if there is such a thing, and `sparse` or `crowded`."""
        size = () if not self.smallest else ("small",) if self.smallest <= SMALL else ("large",)
        return (*size, "crowded" if self.things >= CROWDED else "sparse")


@dataclass(frozen=True)
class Scene:
    """An image of 336 by 336 pixels, the things in it, and questions about it."""

    image: Image.Image
    items: tuple[Item, ...]
    questions: tuple[Question, ...]


def relevant_patches(asked: AskedQuestion, grid: int | PatchGrid) -> NDArray[np.bool_]:
    """The patches (rows, columns) that show the things a question is about."""
    touched = np.zeros(square(grid), dtype=bool)
    for item in asked.about:
        touched |= overlap(item, grid) > TOUCHED
    return touched


def _question(asked: AskedQuestion, things: int) -> Question:
    smallest = min((item.width * item.height / PATCH**2 for item in asked.about), default=0.0)
    return Question(asked.text, asked.answer, asked.family, relevant_patches(asked, GRID), smallest, things)


def contents(rng: np.random.Generator) -> dict[str, int]:
    """How many objects, signs and handwritten digits a whole scene has."""
    return {
        "objects": int(rng.integers(2, 8)),
        "signs": 1 + int(rng.random() < 0.45),
        "handwritten": int(rng.random() < 0.5),
    }


def scene(seed: int, split: Split = "train") -> Scene:
    """Draw the scene for a seed.

    Args:
        seed: not negative; the same seed always gives the same scene.
        split: `train` or `held_out`.

    Raises:
        ValueError: another split, or a negative seed.
        MissingPackageError: scikit-learn, which ships the photographs and digits, is not installed.
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be 'train' or 'held_out', not {split!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, and is {seed}")
    rng = np.random.default_rng((VERSION, _STREAMS[split], seed))
    items = place(rng, split, SIDE, **contents(rng))
    pixels = paint(rng, split, SIDE, items)
    sentence = describe(rng, items)
    all_questions = [*ask(rng, items), *([sentence] if sentence is not None else [])]
    questions = tuple(_question(asked, len(items)) for asked in all_questions)
    return Scene(Image.fromarray(pixels), tuple(items), questions)
