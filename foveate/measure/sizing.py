"""How many images a GPU holds, by arithmetic alone: visual tokens, bytes of keys and values, and the room that the weights leave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from foveate.chat.conversations import build_inputs, question_about
from foveate.chat.counting import named_placeholder_ids
from foveate.chat.models import checkpoint_of, load_processor
from foveate.chat.visuals import VisualInput
from foveate.errors import ParameterError, UnsupportedModelError
from foveate.files.checkpoints import load_config
from foveate.measure.bench.shapes import build, find_shape

__all__ = ["DTYPES", "ModelSize", "size_of_model", "size_of_shape"]

DTYPES: Mapping[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
GB = 2**30
"""What vendors of GPUs call a GB of memory."""
DEFAULT_SIDE = 672
"""Pixels of an image for models that take any size, unless their shape has one of its own."""


@dataclass(frozen=True)
class ModelSize:
    """What a model's memory depends on.

    Attributes:
        name: as the user gave it.
        parameters: of all its parts.
        layers: of the decoder, each with keys and values.
        key_value_heads: of a layer.
        head_size: numbers of a key, and of a value.
        tokens: visual tokens of one image.
    """

    name: str
    parameters: int
    layers: int
    key_value_heads: int
    head_size: int
    tokens: int

    def weight_bytes(self, dtype: torch.dtype) -> int:
        """Of all weights."""
        return self.parameters * dtype.itemsize

    def cache_bytes(self, tokens: int, dtype: torch.dtype) -> int:
        """Of the keys and values of that many tokens, in all layers."""
        return 2 * tokens * self.layers * self.key_value_heads * self.head_size * dtype.itemsize

    def kept(self, keep: int | float | None) -> int:
        """Visual tokens of an image at a budget: at most so many (int), a share of them (float), or all (`None`)."""
        if keep is None:
            return self.tokens
        return min(keep, self.tokens) if isinstance(keep, int) else max(1, math.floor(keep * self.tokens + 0.5))

    def images(self, memory: float, reserve: float, tokens: int, dtype: torch.dtype) -> int | None:
        """How many images a GPU holds at the same time.

        Args:
            memory: of the GPU, GB of 2**30 bytes.
            reserve: share of it that holds neither weights nor keys and values.
            tokens: of one image, with the text that comes with it.
            dtype: of weights, keys and values.

        Returns:
            a number from 0 upwards; `None` if the weights alone do not fit.
        """
        room = memory * GB * (1 - reserve) - self.weight_bytes(dtype)
        return None if room < 0 else math.floor(room / self.cache_bytes(tokens, dtype))


def size_of_shape(name: str, image_size: tuple[int, int] | None = None) -> ModelSize:
    """The size of a published model.

    Args:
        name: of `foveate.measure.bench.shapes.shapes()`.
        image_size: width and height in pixels; `None` for the shape's own.

    Raises:
        UnknownNameError: there is no such shape.
        ParameterError: the model takes no images of that size.
    """
    shape = find_shape(name)
    picture = shape.picture if image_size is None else shape.picture.sized(*image_size)
    model = build(shape, device=torch.device("meta"), dtype=torch.bfloat16)
    return _size(shape.name, model, picture.tokens)


def size_of_model(name: str, image_size: tuple[int, int] | None = None) -> ModelSize:
    """The size of a model, from its configuration and its processor; its weights are not read.

    Args:
        name: "demo", a folder, or an id on the Hugging Face hub.
        image_size: width and height in pixels; `None` for a square of `DEFAULT_SIDE`.

    Raises:
        InputError: the model is not available or damaged, or is not for images and text.
        UnsupportedModelError: some of its layers keep no key and value of every token, or none of that form.
    """
    from transformers import AutoModelForImageTextToText

    config = load_config(checkpoint_of(name))
    with torch.device("meta"):
        model: nn.Module = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    processor = load_processor(name)
    picture = VisualInput((Image.new("RGB", image_size or (DEFAULT_SIDE, DEFAULT_SIDE), "gray"),))
    ids = build_inputs(processor, [question_about(processor, "what is this?", picture)])["input_ids"]
    tokens = int(torch.isin(ids, torch.tensor(named_placeholder_ids(model))).sum())
    if not tokens:
        raise ParameterError(
            f"{name}: the processor puts no visual tokens into a prompt with an image, so it belongs to another model", "model"
        )
    return _size(name, model, tokens)


def _size(name: str, model: nn.Module, tokens: int) -> ModelSize:
    config: Any = model.config
    text = config.get_text_config()
    others = sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention"})
    if others or getattr(text, "kv_lora_rank", None):
        found = ", ".join(others) or "compressed keys and values"
        raise UnsupportedModelError(f"{name} has layers with {found}, whose memory is no multiple of the tokens; measure it instead")
    heads = text.num_attention_heads
    return ModelSize(
        name=name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=text.num_hidden_layers,
        key_value_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        tokens=tokens,
    )
