"""Running many methods over the same pictures without running the vision tower for each of them again."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["remembered_features"]


@contextlib.contextmanager
def remembered_features(model: nn.Module) -> Iterator[None]:
    """Inside this context the image features of a picture are computed once and then remembered, bit for bit.

    For models whose features depend on `pixel_values` (images, ...) alone, one picture at a time.
    """
    base: Any = model.base_model
    compute = base.get_image_features
    known: dict[bytes, Tensor] = {}

    @functools.wraps(compute)
    def remember(pixel_values: Tensor, *args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
        keys = [hashlib.sha256(picture.cpu().contiguous().view(torch.uint8).numpy().tobytes()).digest() for picture in pixel_values]
        for key, picture in zip(keys, pixel_values, strict=True):
            if key not in known:
                known[key] = compute(picture[None], *args, **kwargs).pooler_output[0]
        return BaseModelOutputWithPooling(pooler_output=[known[key] for key in keys])

    base.get_image_features = remember
    try:
        yield
    finally:
        del base.get_image_features
