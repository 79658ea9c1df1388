"""The questions about the things in a scene, with the right answers and the things that they are about."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from foveate.demo.scenes.drawing import COLOURS, SHAPES, Item, under
from foveate.demo.scenes.labels import GRID, PATCH

PLURALS = {shape: f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES}
LARGEST_COUNT = 6  # things to count, and the largest answer
SHORTEST_DESCRIPTION, LONGEST_DESCRIPTION = 16, 60  # tokens
_APART = 3  # pixels that neighbours in a description must differ in, from left to right
_CLEAR = 21  # pixels that two centres, or a centre and the middle, must differ to be asked about


@dataclass(frozen=True)
class AskedQuestion:
    """A question, its answer, its family, and the things that one must look at to answer it."""

    text: str
    answer: str
    family: str
    about: tuple[Item, ...]


def article(noun: str) -> str:
    """The noun with `a` or `an` before it."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _say(rng: np.random.Generator, *wordings: str) -> str:
    """One of several wordings, all equally likely."""
    return wordings[int(rng.integers(len(wordings)))]


def _objects(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.kind == "object"]


def _single(items: Sequence[Item], *attributes: str) -> list[Item]:
    """The items whose given attributes no other item shares."""
    keys = [tuple(getattr(item, name) for name in attributes) for item in items]
    often = Counter(keys)
    return [item for item, key in zip(items, keys, strict=True) if often[key] == 1]


def _pick(rng: np.random.Generator, items: Sequence[Item]) -> Item | None:
    return items[int(rng.integers(len(items)))] if items else None


def _colour(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    signs = [item for item in items if item.kind == "sign"]
    if len(signs) == 1 and rng.random() < 0.25:
        item, noun = signs[0], "sign"
    else:
        picked = _pick(rng, _single(_objects(items), "shape"))
        if picked is None:
            return None
        item, noun = picked, picked.shape
    text = _say(rng, f"what colour is the {noun}?", f"which colour does the {noun} have?", f"the {noun}: what colour is it?")
    return AskedQuestion(text, item.colour, "colour", (item,))


def _shape(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    item = _pick(rng, _single(_objects(items), "colour"))
    if item is None:
        return None
    noun = f"{item.colour} object"
    text = _say(rng, f"what shape is the {noun}?", f"which shape does the {noun} have?", f"the {noun}: what shape is it?")
    return AskedQuestion(text, item.shape, "shape", (item,))


def _named(rng: np.random.Generator, items: Sequence[Item]) -> Item | None:
    return _pick(rng, _single(_objects(items), "colour", "shape"))


def _size(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    item = _named(rng, items)
    if item is None:
        return None
    noun = f"{item.colour} {item.shape}"
    text = _say(rng, f"is the {noun} small or large?", f"is the {noun} large or small?", f"what size is the {noun}?")
    return AskedQuestion(text, item.size, "size", (item,))


def _groups(objects: Sequence[Item]) -> dict[str, tuple[Item, ...]]:
    """The objects of every shape and of every colour, by the plural name; some are empty."""
    groups = {PLURALS[shape]: tuple(item for item in objects if item.shape == shape) for shape in SHAPES}
    return groups | {f"{colour} objects": tuple(item for item in objects if item.colour == colour) for colour in COLOURS}


def _count(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    """Ask for a number; every number that the scene allows is equally likely."""
    objects = _objects(items)
    groups = {"objects": tuple(objects), **_groups(objects)}
    numbers = sorted({len(group) for group in groups.values() if len(group) <= LARGEST_COUNT})
    number = numbers[rng.integers(len(numbers))]
    names = [name for name, group in groups.items() if len(group) == number]
    name = names[rng.integers(len(names))]
    text = _say(rng, f"how many {name} are there?", f"how many {name} do you see?", f"count the {name}.")
    return AskedQuestion(text, str(number), "count", groups[name])


def _presence(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
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
    text = _say(rng, f"is there {article(noun)}?", f"do you see {article(noun)}?", f"does the picture show {article(noun)}?")
    return AskedQuestion(text, _yes(wanted), "presence", about)


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _side(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    item = _named(rng, items)
    if item is None:
        return None
    noun = f"{item.colour} {item.shape}"
    across, down = (item.centre[axis] - middle[axis] for axis in (0, 1))
    column, row = ("left", "right")[across > 0], ("top", "bottom")[down > 0]
    kind = rng.integers(3)
    if (kind != 1 and abs(across) < _CLEAR) or (kind != 0 and abs(down) < _CLEAR):
        return None
    if kind == 0:
        text, answer = _say(rng, f"is the {noun} on the left or on the right?", f"is the {noun} on the right or on the left?"), column
    elif kind == 1:
        text, answer = _say(rng, f"is the {noun} at the top or at the bottom?", f"is the {noun} at the bottom or at the top?"), row
    else:
        text, answer = _say(rng, f"where is the {noun}?", f"in which corner is the {noun}?"), f"{row} {column}"
    return AskedQuestion(text, answer, "side", (item,))


def _relation(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    named = _single(_objects(items), "colour", "shape")
    if len(named) < 2:
        return None
    one, other = (named[index] for index in rng.choice(len(named), 2, replace=False))
    axis = int(rng.integers(2))
    difference = one.centre[axis] - other.centre[axis]
    if abs(difference) < _CLEAR:
        return None
    first, second = f"{one.colour} {one.shape}", f"{other.colour} {other.shape}"
    ends = (("left", "right"), ("above", "below"))[axis]
    behind = ("left of", "right of") if axis == 0 else ends
    answer = ends[difference > 0]
    if rng.random() < 0.25:
        which = int(rng.integers(2))
        return AskedQuestion(f"is the {first} {behind[which]} the {second}?", _yes(answer == ends[which]), "relation", (one, other))
    forward, backward = (f"{ends[a]} or {behind[b]}" for a, b in ((0, 1), (1, 0)))
    text = _say(rng, f"is the {first} {forward} the {second}?", f"is the {first} {backward} the {second}?")
    return AskedQuestion(text, answer, "relation", (one, other))


def _comparison(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    """Compare two numbers, two colours or two shapes; yes and no are equally likely if the scene allows both."""
    objects, wanted = _objects(items), bool(rng.random() < 0.5)
    kind = rng.integers(3)
    if kind == 0:
        groups = [(name, group) for name, group in _groups(objects).items() if group]
        pairs = [(a, b) for a in groups for b in groups if a is not b and (len(a[1]) > len(b[1])) == wanted]
        if not pairs:
            return None
        (more, many), (less, few) = pairs[int(rng.integers(len(pairs)))]
        text = _say(rng, f"are there more {more} than {less}?", f"do you see more {more} than {less}?")
        return AskedQuestion(text, _yes(wanted), "comparison", tuple(dict.fromkeys((*many, *few))))
    told, asked = ("shape", "colour") if kind == 1 else ("colour", "shape")
    single = _single(objects, told)
    found = [(a, b) for a in single for b in single if a is not b and (getattr(a, asked) == getattr(b, asked)) == wanted]
    if not found:
        return None
    one, other = found[int(rng.integers(len(found)))]
    first, second = ((f"{i.shape}" if told == "shape" else f"{i.colour} object") for i in (one, other))
    text = _say(rng, f"do the {first} and the {second} have the same {asked}?", f"is the {first} the same {asked} as the {second}?")
    return AskedQuestion(text, _yes(wanted), "comparison", (one, other))


def _reading(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    signs = [item for item in items if item.kind == "sign"]
    item = _pick(rng, signs)
    if item is None:
        return None
    family = "number" if item.text.isdigit() else "word"
    noun = "sign" if len(signs) == 1 and rng.random() < 0.7 else f"{item.colour} sign"
    text = _say(rng, f"what does the {noun} say?", f"what is written on the {noun}?", f"which {family} is on the {noun}?")
    return AskedQuestion(text, item.text.lower(), family, (item,))


def _digit(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    written = [item for item in items if item.kind == "digit"]
    if len(written) != 1:
        return None
    text = _say(rng, "which digit is written by hand?", "what is the handwritten digit?", "read the handwritten digit.")
    return AskedQuestion(text, written[0].text, "digit", (written[0],))


def _hop(rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float]) -> AskedQuestion | None:
    """Ask from a sign to the one object directly under it, or back."""
    signs = [item for item in items if item.kind == "sign"]
    pairs = [(sign, below[0]) for sign in signs if len(below := under(sign, items)) == 1]
    if not pairs:
        return None
    sign, item = pairs[int(rng.integers(len(pairs)))]
    kind = rng.integers(4)
    if kind == 0 and len(_named_like(items, item)) == 1 and sum(item in under(other, items) for other in signs) == 1:
        return AskedQuestion(f"what does the sign above the {item.colour} {item.shape} say?", sign.text.lower(), "hop", (item, sign))
    text = sign.text.lower()
    said = _say(rng, f"the sign that says {text}", f"the {'number' if text.isdigit() else 'word'} {text}")
    said = said if kind != 1 else f"the {sign.colour} sign"
    if rng.random() < 0.6:
        return AskedQuestion(f"what colour is the object under {said}?", item.colour, "hop", (sign, item))
    return AskedQuestion(f"what shape is under {said}?", item.shape, "hop", (sign, item))


def _named_like(items: Sequence[Item], item: Item) -> list[Item]:
    return [other for other in _objects(items) if (other.colour, other.shape) == (item.colour, item.shape)]


def phrase(item: Item) -> str:
    """The description of one thing."""
    if item.kind == "sign":
        return f"a {item.colour} sign that says {item.text.lower()}"
    if item.kind == "digit":
        return f"a handwritten digit {item.text}"
    return f"a {item.size} {item.colour} {item.shape}"


def in_order(items: Sequence[Item]) -> tuple[Item, ...]:
    """Things from left to right, in the order of a description."""
    return tuple(sorted(items, key=lambda item: (item.centre, item.kind)))


def describe(rng: np.random.Generator, items: Sequence[Item]) -> AskedQuestion | None:
    """Ask for one sentence that names everything, from left to right.

    A scene in which the order of two things is unclear, or that takes too few or too many words, is not asked about.
    """
    ordered = in_order(items)
    close = any(b.centre[0] - a.centre[0] < _APART for a, b in itertools.pairwise(ordered))
    length = sum(1 + len(item.text) + 5 if item.kind == "sign" else 5 for item in ordered)
    if close or not SHORTEST_DESCRIPTION <= length <= LONGEST_DESCRIPTION:
        return None
    *others, last = (phrase(item) for item in ordered)
    text = _say(rng, "describe the picture.", "describe the picture in one sentence.", "what do you see?")
    return AskedQuestion(text, f"{', '.join(others)} and {last}.", "description", ordered)


_ASKING = (_colour, _shape, _size, _count, _presence, _side, _relation, _comparison, _reading, _digit, _hop)
SHORT = ("colour", "shape", "size", "count", "presence", "side", "relation", "comparison", "word", "number", "digit", "hop")
FAMILIES = (*SHORT, "description")


def ask(
    rng: np.random.Generator, items: Sequence[Item], middle: tuple[float, float] = (GRID * PATCH / 2, GRID * PATCH / 2), repeats: int = 1
) -> list[AskedQuestion]:
    """Ask up to `repeats` different questions of each kind with a short answer, as far as the things allow.

    Args:
        rng: the source of randomness.
        items: the things in the scene, or in a window of it.
        middle: (x, y) in pixels that separates left from right and top from bottom; by default that of a whole scene.
        repeats: tries of each kind.
    """
    found: dict[str, AskedQuestion] = {}
    for _ in range(repeats):
        for asking in _ASKING:
            asked = asking(rng, items, middle)
            if asked is not None:
                found.setdefault(asked.text, asked)
    return list(found.values())
