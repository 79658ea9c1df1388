"""Where the visual tokens of a prompt are, and how many, as observed while the model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.encoders import Encoders
from foveate.errors import FoveateError, InputError
from foveate.families import ImageTokens, families, family_of

__all__ = ["counted", "named_placeholder_ids", "placeholder_ids", "placeholders", "recorded"]


@contextmanager
def recorded(model: nn.Module) -> Iterator[Callable[[Tensor], list[list[ImageTokens]]]]:
    """Record the calls of the vision encoder, without a method.

    Yields:
        a function that returns the images of each row of `input_ids` (b, s); call it after the model ran, inside the context.

    Raises:
        UnsupportedModelError: the model belongs to no known family.
    """
    family = family_of(model)
    encoders = Encoders(model, family, frozenset())
    encoders.enter()
    try:
        yield lambda input_ids: family.images(model, input_ids.cpu(), encoders.seen(None)[0])
    finally:
        encoders.leave()
        encoders.remove()


@contextmanager
def counted(model: nn.Module) -> Iterator[Callable[[Tensor], list[int]]]:
    """Count visual tokens as a report does: without newlines and the like, which are never dropped, even if they share the placeholder.

    Yields:
        a function that returns the visual tokens of each row of `input_ids` (b, s); call it after the model ran, inside the context. For a
        model of no known family it counts all placeholders.
    """
    try:
        family_of(model)
    except FoveateError:
        yield lambda input_ids: placeholders(model, input_ids)
        return
    with recorded(model) as images:

        def count(input_ids: Tensor) -> list[int]:
            try:
                return [sum(image.columns.numel() for image in row) for row in images(input_ids)]
            except FoveateError:
                return placeholders(model, input_ids)

        yield count


def placeholders(model: nn.Module, input_ids: Tensor) -> list[int]:
    """How many tokens of each row of `input_ids` (b, s) stand for images and videos, including newlines where they share the id."""
    counts: list[int] = torch.isin(input_ids, torch.tensor(placeholder_ids(model), device=input_ids.device)).sum(1).tolist()
    return counts


def placeholder_ids(model: nn.Module) -> list[int]:
    """The ids of tokens that stand for images and videos, from the model's family or else from the usual names in its configuration."""
    config: Any = model.config
    family = next((family for family in reversed(families().values()) if config.model_type in family.model_types), None)
    if family is not None:
        return list(family.placeholders(model).values())
    names = ("image_token_id", "image_token_index", "video_token_id")
    return [value for name in names if isinstance(value := getattr(config, name, None), int)]


def named_placeholder_ids(model: nn.Module) -> list[int]:
    """As `placeholder_ids`, for a model that must have at least one.

    Raises:
        InputError: neither a family nor the configuration names such a token.
    """
    ids = placeholder_ids(model)
    if not ids:
        config: Any = model.config
        raise InputError(
            f"a {config.model_type!r} model does not say which token stands for an image, so its visual tokens cannot be counted"
        )
    return ids
