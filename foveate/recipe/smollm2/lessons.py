"""Lessons: pictures with a strip of packed questions after each, and patches with labels, drawn by processes that need no GPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.demo.scenes.backgrounds import Split
from foveate.demo.scenes.drawing import paint
from foveate.demo.scenes.labels import CLASSES, GRID, IGNORED, PATCH, patch_labels
from foveate.demo.scenes.questions import FAMILIES, AskedQuestion, ask, describe
from foveate.recipe.decoder import draw_items
from foveate.recipe.smollm2.language import END, Words, spelled_answer
from foveate.recipe.smollm2.travel import drawing_from


@dataclass(frozen=True)
class LessonLayout:
    """How a lesson with pictures of one size is packed.

    Attributes:
        side: patches per side of a picture.
        window: whether the picture is a window at a random place of a larger one, and keeps its positions there. Otherwise it is a
            picture of its own; a small one has the middle of the tower's positions.
        strip: tokens after each picture, questions and answers together.
        rows: how many of these tokens may be followed by a token of an answer.
    """

    side: int
    window: bool
    strip: int
    rows: int


LAYOUTS = {8: LessonLayout(8, True, 224, 100), 12: LessonLayout(12, False, 256, 104), 24: LessonLayout(24, False, 320, 128)}
MOST = 72  # questions in a strip
REPEATS, MORE_REPEATS = 4, 16  # tries of each kind of question, some of which fit; and in a strip with notes
BRIEF = 0.6  # share of a strip for questions in note form, while these are learned
DESCRIPTIONS = 0.12  # share of pictures that are also described, if there is room
HARD = {
    "side": 4.0,
    "relation": 3.0,
    "word": 2.5,
    "colour": 2.0,
    "number": 2.0,
    "count": 1.5,
    "presence": 1.5,
    "hop": 1.5,
    "comparison": 1.5,
}


@dataclass
class PackedLesson:
    """A batch of pictures, each with a strip of questions and answers.

    Attributes:
        pixels: (b, height, width, 3) in 8 bits.
        positions: (b, n) indices of the patches among the tower's positions.
        places: (b, n) rotary positions of the visual tokens, from the first one's.
        counted: (b,) visual tokens that positions of questions count: a window's have those they have after the larger picture.
        tokens: (b, t) ids of questions and answers, one after the other.
        segments: (b, t) which question a token belongs to; -1 for padding.
        offsets: (b, t) position of a token in its question.
        rows: (b, r) positions in the strip whose next token is part of an answer; 0 if there are fewer.
        wanted: (b, r) ids of those next tokens, `IGNORED` beyond the last.
        asked: (b, r) which question a row belongs to.
        families: (b, `MOST`) index of each question's family, -1 if there is no question.
    """

    pixels: Tensor
    positions: Tensor
    places: Tensor
    counted: Tensor
    tokens: Tensor
    segments: Tensor
    offsets: Tensor
    rows: Tensor
    wanted: Tensor
    asked: Tensor
    families: Tensor

    def to(self, device: torch.device) -> PackedLesson:
        """The same lesson on another device, copied without waiting for it."""
        tensors = (getattr(self, field.name) for field in fields(self))
        if device.type == "cuda":
            return PackedLesson(*(tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors))
        return PackedLesson(*(tensor.to(device) for tensor in tensors))

    def trimmed(self) -> PackedLesson:
        """The lesson without padding that no picture of it needs, which saves time where shapes may change."""
        strip, rows = int((self.segments >= 0).sum(1).max()), int((self.wanted != IGNORED).sum(1).max())
        short = {name: getattr(self, name)[:, :strip] for name in ("tokens", "segments", "offsets")}
        return replace(self, **short, **{name: getattr(self, name)[:, :rows] for name in ("rows", "wanted", "asked")})

    def pieces(self, count: int) -> Iterator[PackedLesson]:
        """The lesson in up to `count` parts with fewer pictures."""
        parts = [getattr(self, field.name).chunk(count) for field in fields(self)]
        return (PackedLesson(*part) for part in zip(*parts, strict=True))


_words: dict[str, Words] = {}


def begin(tokenizer: Path, pictures: Path) -> None:
    """Prepare a process that draws: the tokenizer, and the photographs and digits that were carried here."""
    with np.load(pictures) as carried:
        drawing_from(dict(carried))
    _words["words"] = Words(tokenizer.read_text(encoding="utf-8"))


def words() -> Words:
    """The words of this process."""
    return _words["words"]


def draw_lesson(
    seed: tuple[int, ...], split: Split, batch: int, side: int, frame: int = GRID, brief: bool = False
) -> dict[str, NDArray[np.generic]]:
    """Draw pictures with the layout of `side`; the arrays are those of a `PackedLesson`.

    Args:
        seed: of everything that is drawn.
        split: the pictures' split.
        batch: pictures.
        side: patches per side of each.
        frame: patches per side of the picture that a window is taken from.
        brief: put some of the questions in note form, which packs three of them into the tokens of one; see `in_note_form`.
    """
    rng, layout = np.random.default_rng(seed), LAYOUTS[side]
    frame, size = frame if layout.window else side, (side * PATCH, side * PATCH)
    inside = rng.integers(0, frame - side + 1, (batch, 2)) if layout.window else np.zeros((batch, 2), dtype=np.int64)
    corners = inside + (GRID - frame) // 2
    positions, places = (_indices(origin, side, width) for origin, width in ((corners, GRID), (inside, frame)))
    pixels = np.empty((batch, size[1], size[0], 3), dtype=np.uint8)
    strips = []
    for image in range(batch):
        middle = tuple(((GRID / 2 - corners[image]) * PATCH).tolist())
        items = draw_items(rng, split, side)
        pixels[image] = paint(rng, split, size, items)
        questions = ask(rng, items, middle, repeats=MORE_REPEATS if brief else REPEATS)
        weights = np.array([HARD.get(question.family, 1.0) for question in questions])
        order = rng.choice(len(questions), len(questions), replace=False, p=weights / weights.sum())
        chosen = [questions[index] for index in order]
        if rng.random() < DESCRIPTIONS and (sentence := describe(rng, items)) is not None:
            chosen.insert(0, sentence)
        strips.append(_strip(rng, layout, chosen, varied=split == "train", brief=brief))
    packed = {name: np.stack([strip[name] for strip in strips]) for name in strips[0]}
    return {"pixels": pixels, "positions": positions, "places": places, "counted": np.full(batch, frame * frame), **packed}


def _indices(corners: NDArray[np.int64], side: int, width: int) -> NDArray[np.int64]:
    """Indices (b, n) of windows whose first patches are at `corners` (b, 2) in a grid that is so wide."""
    lines = np.arange(side)
    return ((corners[:, 1, None, None] + lines[:, None]) * width + corners[:, 0, None, None] + lines).reshape(len(corners), -1)


def lesson_of(arrays: dict[str, NDArray[np.generic]]) -> PackedLesson:
    """The lesson whose arrays another process drew."""
    return PackedLesson(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def ids_of(asked: AskedQuestion, text: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids after a picture in the prompt of a question, and those of its answer with the token that ends it."""
    known = words()
    return known.ids(text) + known.after, known.ids(spelled_answer(asked.answer, asked.about) + END)


_NOTES = (
    ("presence", r"(?:is there|do you see|does the picture show) an? (.+)\?", r"\1"),
    ("colour", r".*\bthe (sign|\w+)\b.*", r"\1 colour"),
    ("shape", r".*\bthe (\w+ object)\b.*", r"\1 shape"),
    ("size", r"(?:is|what size is) the (\w+ \w+)\b.*", r"\1 size"),
    ("count", r"(?:how many|count the) (\w+(?: objects)?)\b.*", r"number of \1"),
    ("side", r"is the (\w+ \w+) (?:on the|at the) (\w+) or (?:on the|at the) (\w+)\?", r"\1 \2 or \3"),
    ("side", r".*\bthe (\w+ \w+)\?", r"\1 corner"),
    ("relation", r"is the (\w+ \w+) (.+) the (\w+ \w+)\?", r"\1 \2 \3"),
)


def in_note_form(question: AskedQuestion) -> str | None:
    """A question in a few words, such as "star colour", or `None` if its family has no such form.

    An answer follows after a line break, without the frame of a chat. So a strip holds three times as many facts about its picture.
    """
    for family, pattern, form in _NOTES:
        if family == question.family and (found := re.fullmatch(pattern, question.text)) is not None:
            return f"{found.expand(form)}\n"
    return None


def _strip(
    rng: np.random.Generator, layout: LessonLayout, questions: list[AskedQuestion], *, varied: bool, brief: bool
) -> dict[str, NDArray[np.int64]]:
    """Questions with their answers one after the other, as many as fit, in the given order of preference.

    If `brief`, those that have a note form take it once the strip is filled to `1 - BRIEF`.
    """
    tokens, offsets = np.zeros((2, layout.strip), dtype=np.int64)
    segments = np.full(layout.strip, -1, dtype=np.int64)
    rows, asked = np.zeros((2, layout.rows), dtype=np.int64)
    wanted = np.full(layout.rows, IGNORED, dtype=np.int64)
    families = np.full(MOST, -1, dtype=np.int64)
    start = row = count = 0
    noted: set[str] = set()
    for question in questions:
        if brief and start > (1 - BRIEF) * layout.strip:
            note = in_note_form(question)
            if note is None or note in noted:
                continue
            before, answer = words().ids(note), words().ids(question.answer)
            noted.add(note)
        else:
            before, answer = ids_of(question, _varied(rng, question.text) if varied else question.text)
        stop, last = start + len(before) + len(answer) - 1, row + len(answer)
        if stop > layout.strip or last > layout.rows or count == MOST:
            continue
        tokens[start:stop] = (*before, *answer[:-1])
        segments[start:stop], offsets[start:stop] = count, np.arange(stop - start)
        rows[row:last] = start + len(before) - 1 + np.arange(len(answer))
        wanted[row:last], asked[row:last] = answer, count
        families[count] = FAMILIES.index(question.family)
        start, row, count = stop, last, count + 1
    return {
        "tokens": tokens,
        "segments": segments,
        "offsets": offsets,
        "rows": rows,
        "wanted": wanted,
        "asked": asked,
        "families": families,
    }


def _varied(rng: np.random.Generator, text: str) -> str:
    """Sometimes with a capital, sometimes in American spelling."""
    if rng.random() < 0.15:
        text = text.replace("colour", "color")
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


LABELS = (*CLASSES, "column", "row")
"""What is known about each patch; the last two say on which side of the picture the thing in it is."""


def draw_labelled(seed: tuple[int, ...], batch: int, side: int) -> dict[str, NDArray[np.generic]]:
    """Draw pictures for the alignment: pixels and positions as in a lesson, labels (b, n, len(`LABELS`))."""
    rng, layout = np.random.default_rng(seed), LAYOUTS[side]
    corners = rng.integers(0, GRID - side + 1, (batch, 2)) if layout.window else np.full((batch, 2), (GRID - side) // 2)
    positions = _indices(corners, side, GRID)
    pixels = np.empty((batch, side * PATCH, side * PATCH, 3), dtype=np.uint8)
    labels = np.empty((batch, side * side, len(LABELS)), dtype=np.int64)
    for image in range(batch):
        items = draw_items(rng, "train", side)
        pixels[image] = paint(rng, "train", (side * PATCH, side * PATCH), items)
        classes, centres = patch_labels(items, side, (int(corners[image, 0]), int(corners[image, 1])))
        sides = np.where(np.isnan(centres), IGNORED, np.nan_to_num(centres) > 0.5).astype(np.int64)
        labels[image] = np.concatenate([classes, sides], axis=1)
    return {"pixels": pixels, "positions": positions, "labels": labels}
