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
SMALLEST = 12  # patches per side of a picture
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
        relevant: (24, 24) booleans, rows first, or as many as the picture has: the patches that show what the question is about. None is
            set if the answer is that there is no such thing.
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
    """An image, 336 by 336 pixels by default, the things in it, and questions about it."""

    image: Image.Image
    items: tuple[Item, ...]
    questions: tuple[Question, ...]


def relevant_patches(asked: AskedQuestion, grid: int | PatchGrid) -> NDArray[np.bool_]:
    """The patches (rows, columns) that show the things a question is about."""
    touched = np.zeros(square(grid), dtype=bool)
    for item in asked.about:
        touched |= overlap(item, grid) > TOUCHED
    return touched


def _question(asked: AskedQuestion, things: int, side: int) -> Question:
    smallest = min((item.width * item.height / PATCH**2 for item in asked.about), default=0.0)
    return Question(asked.text, asked.answer, asked.family, relevant_patches(asked, side), smallest, things)


def contents(rng: np.random.Generator, side: int = GRID) -> dict[str, int]:
    """How many objects, signs and handwritten digits a scene has; a smaller one has room for fewer objects."""
    return {
        "objects": int(rng.integers(2, 8 if side == GRID else 6)),
        "signs": 1 + int(rng.random() < 0.45),
        "handwritten": int(rng.random() < 0.5),
    }


def scene(seed: int, split: Split = "train", side: int = GRID) -> Scene:
    """Draw the scene for a seed.

    Args:
        seed: not negative; the same seed always gives the same scene.
        split: `train` or `held_out`.
        side: patches of 14 pixels per side, 12 to 24. A smaller scene is one of its own, with things as large as in a whole one.

    Raises:
        ValueError: another split, a negative seed, or another side.
        MissingPackageError: scikit-learn, which ships the photographs and digits, is not installed.
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be 'train' or 'held_out', not {split!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, and is {seed}")
    if not SMALLEST <= side <= GRID:
        raise ValueError(f"side must lie between {SMALLEST} and {GRID} patches, and is {side}")
    rng = np.random.default_rng((VERSION, _STREAMS[split], seed, *([side] if side < GRID else [])))
    pixels_across = side * PATCH
    items = place(rng, split, pixels_across, **contents(rng, side))
    pixels = paint(rng, split, pixels_across, items)
    sentence = describe(rng, items)
    all_questions = [*ask(rng, items, (pixels_across / 2, pixels_across / 2)), *([sentence] if sentence is not None else [])]
    questions = tuple(_question(asked, len(items), side) for asked in all_questions)
    return Scene(Image.fromarray(pixels), tuple(items), questions)
