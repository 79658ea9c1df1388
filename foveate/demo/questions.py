"""What can be asked about things that lie in a scene, with the right answer and the things it is about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.demo.drawing import COLOURS, SHAPES, Item
from foveate.demo.labels import GRID, PATCH

PLURALS = {shape: f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES}
MOST = 6  # things to count, and the largest answer
_CLEAR = 21  # pixels that two centres, or a centre and the middle, must differ to be asked about


@dataclass(frozen=True)
class Asked:
    """A question, its answer, its family, and the things that an answer must have looked at."""

    text: str
    answer: str
    family: str
    about: tuple[Item, ...]


def article(noun: str) -> str:
    """The noun with `a` or `an` before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _objects(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.kind == "object"]


def _single(items: Sequence[Item], *attributes: str) -> list[Item]:
    """The items that share the given attributes with no other."""
    keys = [tuple(getattr(item, name) for name in attributes) for item in items]
    often = Counter(keys)
    return [item for item, key in zip(items, keys, strict=True) if often[key] == 1]


def _pick(rng: np.random.Generator, items: Sequence[Item]) -> Item | None:
    return items[int(rng.integers(len(items)))] if items else None


def _colour(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    signs = [item for item in items if item.kind == "sign"]
    if len(signs) == 1 and rng.random() < 0.25:
        return Asked("what colour is the sign?", signs[0].colour, "colour", (signs[0],))
    item = _pick(rng, _single(_objects(items), "shape"))
    return None if item is None else Asked(f"what colour is the {item.shape}?", item.colour, "colour", (item,))


def _shape(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    item = _pick(rng, _single(_objects(items), "colour"))
    return None if item is None else Asked(f"what shape is the {item.colour} object?", item.shape, "shape", (item,))


def _named(rng: np.random.Generator, items: Sequence[Item]) -> Item | None:
    return _pick(rng, _single(_objects(items), "colour", "shape"))


def _size(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    item = _named(rng, items)
    return None if item is None else Asked(f"is the {item.colour} {item.shape} small or large?", item.size, "size", (item,))


def _count(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    """Ask for a number; every number that the scene offers is equally likely."""
    objects = _objects(items)
    groups: dict[str, tuple[Item, ...]] = {"objects": tuple(objects)}
    for shape in SHAPES:
        groups[PLURALS[shape]] = tuple(item for item in objects if item.shape == shape)
    for colour in COLOURS:
        groups[f"{colour} objects"] = tuple(item for item in objects if item.colour == colour)
    numbers = sorted({len(group) for group in groups.values() if len(group) <= MOST})
    number = numbers[rng.integers(len(numbers))]
    names = [name for name, group in groups.items() if len(group) == number]
    name = names[rng.integers(len(names))]
    return Asked(f"how many {name} are there?", str(number), "count", groups[name])


def _presence(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    """Yes and no are equally likely, and half of the absent coloured shapes share colour or shape with a present one."""
    objects = _objects(items)
    kind = rng.integers(4)
    nouns: dict[str, Callable[[Item], bool]]
    if kind == 0:
        nouns = {shape: lambda item, shape=shape: item.shape == shape for shape in SHAPES}  # type: ignore[misc]
    elif kind == 1:
        nouns = {f"{c} object": lambda item, c=c: item.colour == c for c in COLOURS}  # type: ignore[misc]
    else:
        half = rng.random() < 0.5
        nouns = {
            f"{colour} {shape}": lambda item, key=(colour, shape): (item.colour, item.shape) == key  # type: ignore[misc]
            for colour in COLOURS
            for shape in SHAPES
            if not half or any(item.colour == colour or item.shape == shape for item in objects)
        }
    wanted = rng.random() < 0.5
    fitting = [noun for noun, shows in nouns.items() if any(map(shows, objects)) == wanted]
    if not fitting:
        return None
    noun = fitting[rng.integers(len(fitting))]
    about = tuple(item for item in objects if nouns[noun](item))
    return Asked(f"is there {article(noun)}?", "yes" if wanted else "no", "presence", about)


def _side(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    item = _named(rng, items)
    axis = int(rng.integers(2))
    if item is None:
        return None
    place = item.centre[axis] + offset[axis] * PATCH - GRID * PATCH / 2
    if abs(place) < _CLEAR:
        return None
    ends = ("left", "right") if axis == 0 else ("top", "bottom")
    preposition = "on" if axis == 0 else "at"
    text = f"is the {item.colour} {item.shape} {preposition} the {ends[0]} or {preposition} the {ends[1]}?"
    return Asked(text, ends[place > 0], "side", (item,))


def _relation(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    named = _single(_objects(items), "colour", "shape")
    if len(named) < 2:
        return None
    one, other = (named[index] for index in rng.choice(len(named), 2, replace=False))
    axis = int(rng.integers(2))
    difference = one.centre[axis] - other.centre[axis]
    if abs(difference) < _CLEAR:
        return None
    words, ends = ("left or right of", ("left", "right")) if axis == 0 else ("above or below", ("above", "below"))
    text = f"is the {one.colour} {one.shape} {words} the {other.colour} {other.shape}?"
    return Asked(text, ends[difference > 0], "relation", (one, other))


def _reading(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    signs = [item for item in items if item.kind == "sign"]
    item = _pick(rng, signs)
    if item is None:
        return None
    which = "sign" if len(signs) == 1 else f"{item.colour} sign"
    family = "number" if item.text.isdigit() else "word"
    return Asked(f"what does the {which} say?", item.text.lower(), family, (item,))


def _digit(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int]) -> Asked | None:
    written = [item for item in items if item.kind == "digit"]
    if len(written) != 1:
        return None
    return Asked("which digit is written by hand?", written[0].text, "digit", (written[0],))


_ASKING = (_colour, _shape, _size, _count, _presence, _side, _relation, _reading, _digit)
FAMILIES = ("colour", "shape", "size", "count", "presence", "side", "relation", "word", "number", "digit")


def ask(rng: np.random.Generator, items: Sequence[Item], offset: tuple[int, int] = (0, 0), repeats: int = 1) -> list[Asked]:
    """Ask up to `repeats` different questions of each kind that the things allow.

    Args:
        rng: where choices come from.
        items: what lies in the scene, or in a window of it.
        offset: (column, row) in patches of the window within the scene.
        repeats: tries of each kind.
    """
    found: dict[str, Asked] = {}
    for _ in range(repeats):
        for asking in _ASKING:
            asked = asking(rng, items, offset)
            if asked is not None:
                found.setdefault(asked.text, asked)
    return list(found.values())
