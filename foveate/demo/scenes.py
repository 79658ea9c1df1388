"""Scenes that the embedded model can see, with questions, right answers and the patches that each answer needs.

    from foveate.demo.scenes import scene
    example = scene(7, split="held_out")
    example.image, example.questions[0].text, example.questions[0].answer

A scene is a crop of a photograph with coloured shapes, one or two signs and often a handwritten digit on it. Training
and held-out scenes share no random stream, no part of a photograph and no handwritten digit; see `backgrounds` for
where those come from.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from foveate.demo.backgrounds import Split
from foveate.demo.drawing import Item, paint, place
from foveate.demo.labels import GRID, PATCH, overlap
from foveate.demo.questions import FAMILIES, Asked, ask

__all__ = ["FAMILIES", "VERSION", "Question", "Scene", "Split", "fingerprint", "relevant_patches", "scene"]

VERSION = 1  # of how a seed becomes a scene: raised whenever the fingerprint changes
SIDE = GRID * PATCH  # pixels
_STREAMS: dict[Split, int] = {"train": 0, "held_out": 1}
_TOUCHED = 30  # pixels of 196 that a patch must share with a thing to be relevant


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    Attributes:
        text: the question.
        answer: the right answer, in lower case.
        family: one of `FAMILIES`.
        relevant: (24, 24) booleans, rows first: the patches that show what the question is about. None is set where
            the answer is that nothing of the kind is there.
    """

    text: str
    answer: str
    family: str
    relevant: NDArray[np.bool_] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Scene:
    """An image of 336 by 336 pixels, the things in it, and questions about it."""

    image: Image.Image
    items: tuple[Item, ...]
    questions: tuple[Question, ...]


def relevant_patches(asked: Asked, grid: int) -> NDArray[np.bool_]:
    """The patches (grid, grid) that show the things a question is about."""
    touched = np.zeros((grid, grid), dtype=bool)
    for item in asked.about:
        touched |= overlap(item, grid) > _TOUCHED
    return touched


def contents(rng: np.random.Generator) -> dict[str, int]:
    """How many objects, signs and handwritten digits a whole scene gets."""
    return {
        "objects": int(rng.integers(2, 8)),
        "signs": 1 + int(rng.random() < 0.35),
        "handwritten": int(rng.random() < 0.5),
    }


def scene(seed: int, split: Split = "train") -> Scene:
    """Draw the scene of a seed.

    Args:
        seed: not negative; the same seed always gives the same scene.
        split: `train` or `held_out`.

    Raises:
        ValueError: another split, or a negative seed.
        ImportError: scikit-learn, which carries the photographs and digits, is not installed.
    """
    if split not in get_args(Split):
        raise ValueError(f"split must be 'train' or 'held_out', not {split!r}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, and is {seed}")
    rng = np.random.default_rng((VERSION, _STREAMS[split], seed))
    items = place(rng, split, SIDE, **contents(rng))
    pixels = paint(rng, split, SIDE, items)
    questions = tuple(Question(asked.text, asked.answer, asked.family, relevant_patches(asked, GRID)) for asked in ask(rng, items))
    return Scene(Image.fromarray(pixels), tuple(items), questions)


def fingerprint(split: Split, seeds: range) -> str:
    """SHA-256 over questions, answers, relevant patches and pixels of the scenes of some seeds."""
    digest = hashlib.sha256()
    for seed in seeds:
        drawn = scene(seed, split)
        digest.update(drawn.image.tobytes())
        for question in drawn.questions:
            digest.update(f"{question.family}|{question.text}|{question.answer}\n".encode())
            digest.update(np.packbits(question.relevant).tobytes())
    return digest.hexdigest()
