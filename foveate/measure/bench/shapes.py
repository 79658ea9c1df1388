"""Random weights in the shape of published models: all that speed and memory depend on, without a download.

`shapes.json` holds their configurations as data: sizes of decoder and tower, and how pixels become visual tokens.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

import foveate.families  # noqa: F401 - some families bring models that transformers has not
from foveate.errors import ParameterError, UnknownNameError
from foveate.files.records import ANYTHING

__all__ = ["ImageFormat", "ModelShape", "Scale", "build", "find_shape", "parse_size", "shapes", "sizes"]

FEWEST_LAYERS = 4
"""With fewer, no layers would remain after the usual cut."""

_WIDE = 64
"""Intermediate sizes are multiples of it, which suits kernels."""

_WIDTH, _LAYERS, _HEADS = ("embed_dim", "hidden_size"), ("num_hidden_layers", "depth"), ("num_attention_heads", "num_heads")
"""Names of the same thing in different configurations; the first one present counts."""

_CHOSEN_LAYERS = ("fullatt_block_indexes", "deepstack_visual_indexes")


@dataclass(frozen=True)
class ImageFormat:
    """How a model of this shape is given an image.

    Args:
        layout: "square", pixel_values (images, 3, side, side); or "patches", flattened patches with their grids.
        width: of the image, pixels.
        height: of the image, pixels.
        pixels_per_token: side of the square that becomes one visual token.
        around: token ids directly before and after the image's placeholders.
    """

    layout: str
    width: int
    height: int
    pixels_per_token: int
    around: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens."""
        return self.height // self.pixels_per_token, self.width // self.pixels_per_token

    @property
    def tokens(self) -> int:
        """Visual tokens of one image."""
        return math.prod(self.grid)

    def sized(self, width: int, height: int) -> ImageFormat:
        """The same format for an image of another size.

        Raises:
            ParameterError: the tower takes one size only, or the size is not a multiple of a token's.
        """
        if (width, height) == (self.width, self.height):
            return self
        if self.layout == "square":
            raise ParameterError(
                f"{width}x{height} pixels: this tower takes images of {self.width}x{self.height} only; omit the size", "image_size"
            )
        for length in (width, height):
            if length < self.pixels_per_token or length % self.pixels_per_token:
                fitting = max(1, round(length / self.pixels_per_token)) * self.pixels_per_token
                raise ParameterError(
                    f"{width}x{height} pixels: sides must be multiples of {self.pixels_per_token} pixels in this model, such as {fitting}",
                    "image_size",
                )
        return replace(self, width=width, height=height)


@dataclass(frozen=True)
class Scale:
    """How far a shape is scaled: by one factor, or to a width and a number of layers."""

    factor: float = 1.0
    hidden: int | None = None
    layers: int | None = None


@dataclass(frozen=True)
class ModelShape:
    """The configuration of a published model, scaled or not.

    Attributes:
        name: as in `shapes`.
        source: the checkpoint on the Hugging Face hub with this configuration.
        config: for `AutoConfig.for_model`.
        picture: how it is given an image.
    """

    name: str
    source: str
    config: Mapping[str, Any]
    picture: ImageFormat

    def scaled(self, size: Scale) -> ModelShape:
        """The same shape with a smaller decoder and tower; head sizes and vocabulary stay, and at least four layers remain.

        Raises:
            ParameterError: the width is not a multiple of the head size, or there are fewer than four layers.
        """
        config = copy.deepcopy(dict(self.config))
        text, vision = config["text_config"], config["vision_config"]
        head = _head_size(text)
        if size.hidden is None or size.layers is None:
            narrower = shallower = size.factor
            hidden = max(1, round(text["hidden_size"] * size.factor / head)) * head
            layers = max(FEWEST_LAYERS, round(text["num_hidden_layers"] * size.factor))
        else:
            hidden, layers = size.hidden, size.layers
            _check_size(hidden, layers, head)
            narrower, shallower = hidden / text["hidden_size"], layers / text["num_hidden_layers"]
        _resize(text, hidden, layers)
        width = _name(vision, _WIDTH)
        step = vision[width] // vision[_name(vision, _HEADS)]
        deep = max(FEWEST_LAYERS, round(vision[_name(vision, _LAYERS)] * shallower))
        _resize(vision, max(1, round(vision[width] * narrower / step)) * step, deep)
        for output in ("out_hidden_size", "hidden_size") if width == "embed_dim" else ("out_hidden_size",):
            if output in vision:
                vision[output] = hidden
        return replace(self, config=config)


def shapes() -> dict[str, ModelShape]:
    """The known shapes, by name."""
    return {name: _shape(name, entry) for name, entry in _data().items()}


def find_shape(name: str) -> ModelShape:
    """The shape called `name`.

    Raises:
        UnknownNameError: the message has the nearest name and all known ones.
    """
    known, wanted = shapes(), name.strip().lower().replace("_", "-")
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownNameError(f"unknown shape {name!r}: {hint}known shapes are {', '.join(known)}")


def parse_size(text: str) -> Scale:
    """How far to scale a shape: a factor in (0, 1] such as 0.25, or hidden size and layers such as 1024/16.

    Raises:
        ParameterError: if it is neither.
    """
    hidden, slash, layers = text.partition("/")
    try:
        size = Scale(hidden=int(hidden), layers=int(layers)) if slash else Scale(factor=float(text))
    except ValueError:
        size = Scale(factor=math.nan)
    if not 0 < size.factor <= 1:
        raise ParameterError(
            f"scale={text!r} is neither a factor in (0, 1], such as 0.25, nor hidden size and layers, such as 1024/16", "scale"
        )
    return size


def build(shape: ModelShape, *, device: torch.device, dtype: torch.dtype, seed: int = 0, attention: str | None = None) -> nn.Module:
    """A model of that shape with random weights, created directly on the device and in the precision of the run.

    Args:
        shape: scaled or not.
        device: where the weights are created; "meta" creates none.
        dtype: of the weights, without a copy in another precision.
        seed: of the weights.
        attention: attention implementation by its name in transformers; `None` for transformers' own choice.
    """
    torch.manual_seed(seed)
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    with torch.device(device):
        model: nn.Module = AutoModelForImageTextToText.from_config(
            AutoConfig.for_model(**shape.config), trust_remote_code=False, dtype=dtype, **options
        )
    return model.eval()


def sizes(config: Any) -> dict[str, dict[str, Any]]:
    """The sizes of text decoder and vision tower that a model's speed depends on, by their names in its configuration."""
    names = (*_WIDTH, *_LAYERS, *_HEADS, "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size", "image_size", "patch_size")
    parts = {"text": config.get_text_config(), "vision": getattr(config, "vision_config", None)}
    return {
        part: {name: getattr(own, name) for name in names if getattr(own, name, None) is not None}
        for part, own in parts.items()
        if own is not None
    }


@cache
def _data() -> dict[str, Any]:
    return ANYTHING.read(Path(__file__).parent / "shapes.json").raw  # type: ignore[no-any-return]


def _shape(name: str, entry: Mapping[str, Any]) -> ModelShape:
    image = entry["image"]
    picture = ImageFormat(image["layout"], image["side"], image["side"], image["pixels_per_token"], tuple(image["around"]))
    return ModelShape(name, entry["source"], entry["config"], picture)


def _name(config: Mapping[str, Any], names: tuple[str, ...]) -> str:
    return next(name for name in names if name in config)


def _head_size(config: Mapping[str, Any]) -> int:
    size: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return size


def _check_size(hidden: int, layers: int, head: int) -> None:
    if hidden < head or hidden % head:
        fitting = max(1, round(hidden / head)) * head
        raise ParameterError(
            f"scale={hidden}/{layers}: the hidden size must be a multiple of this model's head size, {head}, such as {fitting}", "scale"
        )
    if layers < FEWEST_LAYERS:
        raise ParameterError(
            f"scale={hidden}/{layers}: at least {FEWEST_LAYERS} layers are needed, so that some lie after the cut", "scale"
        )


def _resize(config: dict[str, Any], width: int, layers: int) -> None:
    """Give one part of a configuration another width and depth; the size of its heads and the ratio of key/value heads stay."""
    width_name, layers_name, heads_name = (_name(config, names) for names in (_WIDTH, _LAYERS, _HEADS))
    ratio, old = width / config[width_name], config[layers_name]
    heads = max(1, round(config[heads_name] * ratio))
    if "num_key_value_heads" in config:
        wanted = max(1, round(config["num_key_value_heads"] * ratio))
        config["num_key_value_heads"] = max(count for count in range(1, wanted + 1) if heads % count == 0)
    if "intermediate_size" in config:
        config["intermediate_size"] = max(1, round(config["intermediate_size"] * ratio / _WIDE)) * _WIDE
    for name in _CHOSEN_LAYERS:
        if name in config:
            config[name] = sorted({min(layers - 1, round((index + 1) * layers / old) - 1) for index in config[name]})
    config |= {width_name: width, heads_name: heads, layers_name: layers}
