"""The things in a scene: where they are placed, and how they are painted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveate.demo.scenes.backgrounds import Split, background, digits
from foveate.demo.scenes.glyphs import HEIGHT, WIDTH, glyph

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 42, 42),
    "orange": (245, 142, 28),
    "yellow": (242, 224, 48),
    "green": (40, 168, 62),
    "blue": (42, 84, 224),
    "purple": (152, 52, 182),
    "white": (244, 244, 244),
    "black": (24, 24, 24),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
SIZES = {"small": (22, 28), "large": (40, 48)}  # pixels, both ends included
SIGN_COLOURS = ("white", "yellow", "blue", "red")
_TRAIN_WORDS = (
    "BANK BEAR BIRD BOAT BOOK CAFE CAKE DOG DOOR DUCK EAST EXIT FARM FISH FOX GATE GOLD HAT HELP HOME ICE INN JAM JAZZ KEY LAKE "
    "MAP MILK MOON OAK PARK PUB QUIZ RAIN ROAD SALE SOUP STOP TAXI TEA VAN WEST INK BREAD CLOCK DREAM FRUIT GRAPE HORSE JUICE "
    "KNIFE LEMON MUSIC NIGHT OCEAN PIANO QUEEN RIVER STONE TIGER UNCLE VIDEO WATER YEAST BUTTER CIRCUS DOCTOR ENGINE FOREST "
    "GARDEN HAMMER ISLAND JACKET KERNEL LADDER MARKET NEEDLE PEPPER RABBIT SILVER TUNNEL VIOLIN WINDOW"
)
_HELD_OUT_WORDS = (
    "KITE LION SHOP ZOO OPEN WOLF CORN DESK FROG HILL JUMP LAMP NEST PINE ROSE SHIP TENT VASE WIND YARD BAKERY CASTLE DINER "
    "FERRY GLOBE HOTEL LUNCH MOTEL NURSE PIZZA RADIO SCHOOL TEMPLE VALLEY WAGON ZEBRA BRIDGE PLANET COFFEE"
)
WORDS: dict[Split, tuple[str, ...]] = {
    "train": tuple(_TRAIN_WORDS.split()),
    "held_out": tuple(word for word in _HELD_OUT_WORDS.split() if len(word) <= 6),
}
LETTERS, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
SHORTEST, LONGEST = 3, 6  # characters on a sign
_UNDER = 30  # pixels below a sign within which a thing counts as under it

PITCH = 14  # pixels from one character to the next
_STROKE = 2  # pixels per cell of a glyph: characters are 10 wide and 14 high
_BORDER = 4

ItemKind = Literal["object", "sign", "digit"]


@dataclass(frozen=True)
class Item:
    """One thing in a scene: its box in pixels, and what can be asked about it.

    `text` is what a sign or a handwritten digit says; `shape` and `size` are empty for both, `colour` for a digit.
    """

    kind: ItemKind
    x: int
    y: int
    width: int
    height: int
    colour: str = ""
    shape: str = ""
    size: str = ""
    text: str = ""

    @property
    def centre(self) -> tuple[float, float]:
        """Centre of the box (x, y) in pixels."""
        return self.x + self.width / 2, self.y + self.height / 2


def _sign_box(text: str) -> tuple[int, int]:
    return PITCH * len(text) - (PITCH - WIDTH * _STROKE) + 2 * _BORDER, HEIGHT * _STROKE + 2 * _BORDER


def _touch(one: Item, other: Item, gap: int = 4) -> bool:
    """Whether two boxes are closer than a gap in pixels, in both directions."""
    return not (
        one.x + one.width + gap <= other.x
        or other.x + other.width + gap <= one.x
        or one.y + one.height + gap <= other.y
        or other.y + other.height + gap <= one.y
    )


def _free_spot(rng: np.random.Generator, size: tuple[int, int], box: tuple[int, int], taken: list[Item]) -> tuple[int, int] | None:
    """A corner where a box of (width, height) pixels touches nothing; `None` after a few tries, or if there is no room at all."""
    if box[0] > size[0] or box[1] > size[1]:
        return None
    for _ in range(12):
        x, y = int(rng.integers(size[0] - box[0] + 1)), int(rng.integers(size[1] - box[1] + 1))
        if not any(_touch(Item("object", x, y, *box), item) for item in taken):
            return x, y
    return None


def _sign_text(rng: np.random.Generator, split: Split) -> str:
    """A word of the split's own list, random letters, or a number."""
    kind, length = rng.random(), int(rng.integers(SHORTEST, LONGEST + 1))
    if kind < 0.35:
        return "".join(rng.choice(list(DIGITS), min(length, 5)))
    if kind < 0.65:
        return "".join(rng.choice(list(LETTERS), length))
    return WORDS[split][rng.integers(len(WORDS[split]))]


def under(item: Item, items: Sequence[Item]) -> list[Item]:
    """The objects directly under an item: a little below it, with their centre between its sides."""
    return [
        other
        for other in items
        if other.kind == "object" and item.x <= other.centre[0] <= item.x + item.width and 0 <= other.y - (item.y + item.height) <= _UNDER
    ]


def place(rng: np.random.Generator, split: Split, space: int | tuple[int, int], objects: int, signs: int, handwritten: int) -> list[Item]:
    """Lay out things on (width, height) pixels, or on a square; what finds no room after a few tries is omitted.

    Objects often repeat an earlier colour or shape, so that counting and comparing are worth asking about, and often one is directly
    under a sign.
    """
    items: list[Item] = []
    across, down = (space, space) if isinstance(space, int) else space

    def put(width: int, height: int, kind: ItemKind, colour: str = "", shape: str = "", size: str = "", text: str = "") -> None:
        spot = _free_spot(rng, (across, down), (width, height), items)
        if spot is not None:
            items.append(Item(kind, spot[0], spot[1], width, height, colour, shape, size, text))

    def object_looks() -> tuple[str, str, str, int]:
        earlier = [item for item in items if item.kind == "object"]
        colour, shape = colours[rng.integers(len(colours))], SHAPES[rng.integers(len(SHAPES))]
        if earlier and rng.random() < 0.45:
            shape = earlier[rng.integers(len(earlier))].shape
        if earlier and rng.random() < 0.3:
            colour = earlier[rng.integers(len(earlier))].colour
        size = "small" if rng.random() < 0.5 else "large"
        return colour, shape, size, int(rng.integers(SIZES[size][0], SIZES[size][1] + 1))

    colours = tuple(COLOURS)
    boards = rng.permutation(SIGN_COLOURS)
    for board in boards[:signs]:
        text = _sign_text(rng, split)
        put(*_sign_box(text), "sign", colour=str(board), text=text)
    for sign in list(items):
        if objects and rng.random() < 0.6:
            objects -= 1
            colour, shape, size, extent = object_looks()
            x, y = int(sign.centre[0] + rng.integers(-10, 11)) - extent // 2, sign.y + sign.height + int(rng.integers(4, 14))
            box = Item("object", x, y, extent, extent, colour, shape, size)
            if x >= 0 and x + extent <= across and y + extent <= down and not any(_touch(box, item) for item in items):
                items.append(box)
    for _ in range(handwritten):
        index = int(rng.integers(len(digits(split)[1])))
        put(28, 28, "digit", text=str(digits(split)[1][index]), shape=str(index))
    for _ in range(objects):
        colour, shape, size, extent = object_looks()
        put(extent, extent, "object", colour=colour, shape=shape, size=size)
    return items


@cache
def _silhouette(shape: str, extent: int) -> NDArray[np.float32]:
    """Coverage (extent, extent, 1) in [0, 1] of a shape that fills its box, from 4 by 4 samples per pixel."""
    line = (np.arange(extent * 4) + 0.5) / (extent * 2) - 1
    x, y = np.meshgrid(line, line)
    radius = np.hypot(x, y)
    if shape == "circle":
        inside = radius <= 1
    elif shape == "ring":
        inside = (radius <= 1) & (radius >= 0.52)
    elif shape == "square":
        inside = np.maximum(np.abs(x), np.abs(y)) <= 0.9
    elif shape == "triangle":
        inside = (np.abs(x) <= (y + 1) / 2) & (y <= 0.9)
    elif shape == "cross":
        inside = (np.minimum(np.abs(x), np.abs(y)) <= 0.32) & (np.maximum(np.abs(x), np.abs(y)) <= 1)
    else:
        inside = _star(x, y)
    return inside.reshape(extent, 4, extent, 4).mean(axis=(1, 3)).astype(np.float32)[..., None]


def _star(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A five-pointed star: the points in at least four of the five half-planes of its lines."""
    inside = np.zeros(x.shape, dtype=int)
    for point in range(5):
        angle = np.pi / 2 + 2 * np.pi * point / 5
        inside += x * np.cos(angle) + (y - 0.05) * np.sin(angle) <= 0.36
    return inside >= 4


def _paint(canvas: NDArray[np.uint8], item: Item, coverage: NDArray[np.float32], colour: NDArray[np.float64]) -> None:
    area = canvas[item.y : item.y + item.height, item.x : item.x + item.width]
    area[:] = (area + (colour - area) * coverage).astype(np.uint8)


def _paint_sign(canvas: NDArray[np.uint8], item: Item, colour: NDArray[np.float64]) -> None:
    ink = (20, 20, 20) if item.colour in ("white", "yellow") else (250, 250, 250)
    canvas[item.y : item.y + item.height, item.x : item.x + item.width] = colour
    for index, character in enumerate(item.text):
        strokes = np.repeat(np.repeat(glyph(character), _STROKE, axis=0), _STROKE, axis=1)
        y, x = item.y + _BORDER, item.x + _BORDER + PITCH * index
        canvas[y : y + strokes.shape[0], x : x + strokes.shape[1]][strokes] = ink


def paint(rng: np.random.Generator, split: Split, size: int | tuple[int, int], items: list[Item]) -> NDArray[np.uint8]:
    """Paint items over a background of (width, height) pixels, or a square: (height, width, 3), 8 bits per channel."""
    canvas = background(rng, split, size)
    for item in items:
        jitter = rng.uniform(-11, 11, 3)
        if item.kind == "digit":
            ink = np.zeros((28, 28, 1), dtype=np.float32)
            ink[2:26, 2:26, 0] = digits(split)[0][int(item.shape)]
            canvas[item.y : item.y + 28, item.x : item.x + 28] = 236 + jitter
            _paint(canvas, item, ink, np.array([30.0, 30.0, 60.0]))
            continue
        colour = np.clip(np.array(COLOURS[item.colour]) + jitter, 0, 255)
        if item.kind == "sign":
            _paint_sign(canvas, item, colour)
        else:
            _paint(canvas, item, _silhouette(item.shape, item.width), colour)
    return canvas
