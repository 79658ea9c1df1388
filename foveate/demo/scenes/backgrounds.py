"""The backgrounds and handwritten digits of scenes: crops of photographs, and digits, both from scikit-learn.

scikit-learn ships two photographs, `china.jpg` by Yuto Kitayama and `flower.jpg` by dany13 (both CC BY), and 1,797
handwritten digits of 8 by 8 pixels from the UCI machine learning repository (E. Alpaydin, C. Kaynak; CC BY 4.0).
Training scenes use the left two thirds of each photograph and four fifths of the digits; held-out scenes use the rest.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foveate.errors import MissingPackageError

Split = Literal["train", "held_out"]

_FRONTIER = 420  # the column of both 640-pixel-wide photographs where the held-out part begins
_HELD_OUT_DIGIT = 5  # every fifth digit is held out
_SCALES: dict[Split, tuple[float, ...]] = {"train": (1.0, 1.4, 1.9), "held_out": (1.6, 2.0)}


def _sklearn_datasets() -> ModuleType:
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingPackageError(
            "scenes need the photographs and digits of scikit-learn, which is not installed: pip install 'foveate[demo]'"
        ) from error
    return datasets


def _enlarge(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    """Bilinear upscaling in numpy: the pixels of a scene must not depend on the version of an imaging library."""
    height, width = (int(side * factor) for side in image.shape[:2])
    y = np.linspace(0, image.shape[0] - 1, height)
    x = np.linspace(0, image.shape[1] - 1, width)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, image.shape[0] - 1), np.minimum(left + 1, image.shape[1] - 1)
    down, across = (y - top)[:, None, None], (x - left)[None, :, None]
    upper = image[top][:, left] * (1 - across) + image[top][:, right] * across
    lower = image[bottom][:, left] * (1 - across) + image[bottom][:, right] * across
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)


@cache
def photographs(split: Split) -> tuple[NDArray[np.uint8], ...]:
    """The split's part of both photographs at a few sizes, also mirrored: each (h, w, 3), at least 336 pixels per side."""
    columns = slice(0, _FRONTIER) if split == "train" else slice(_FRONTIER, None)
    parts = [_sklearn_datasets().load_sample_image(name)[:, columns] for name in ("china.jpg", "flower.jpg")]
    sized = [_enlarge(part, scale) for part in parts for scale in _SCALES[split]]
    return tuple(np.ascontiguousarray(view) for image in sized for view in (image, image[:, ::-1]))


@cache
def digits(split: Split) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The split's handwritten digits enlarged to 24 pixels: ink (n, 24, 24) in [0, 1], and the digit of each (n,)."""
    data = _sklearn_datasets().load_digits()
    mine = (np.arange(len(data.target)) % _HELD_OUT_DIGIT == 0) == (split == "held_out")
    ink = data.images[mine].astype(np.float32) / 16
    return np.repeat(np.repeat(ink, 3, axis=1), 3, axis=2), data.target[mine].astype(np.int64)


def background(rng: np.random.Generator, split: Split, size: int | tuple[int, int]) -> NDArray[np.uint8]:
    """A random crop of the split's photographs with random contrast and brightness, of (width, height) pixels or a square."""
    width, height = (size, size) if isinstance(size, int) else size
    views = photographs(split)
    view = views[rng.integers(len(views))]
    y, x = rng.integers(view.shape[0] - height + 1), rng.integers(view.shape[1] - width + 1)
    contrast, level = rng.uniform(0.35, 0.8), rng.uniform(90, 165)
    table = np.clip((np.arange(256) - 128) * contrast + level, 0, 255).astype(np.uint8)
    return table[view[y : y + height, x : x + width]]
