"""Where the visual tokens of a prompt are, and how many: what a model was shown while it ran says it."""

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
    """Record what the vision encoder is asked, without a method.

    Yields:
        a function that, after the model ran and before this ends, gives the images of each row of `input_ids` (b, s).

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
    """Count as a report does: content alone. Newlines and the like, which never leave, are not among it even if they share its placeholder.

    Yields:
        a function that, after the model ran and before this ends, gives the visual tokens of each row of `input_ids` (b, s). Of a model
        that no family can read these are all placeholders.
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
    """How many tokens of each row of `input_ids` (b, s) stand for pictures and videos, newlines among them where they share the id."""
    counts: list[int] = torch.isin(input_ids, torch.tensor(placeholder_ids(model), device=input_ids.device)).sum(1).tolist()
    return counts


def placeholder_ids(model: nn.Module) -> list[int]:
    """The tokens that stand for pictures and videos, by the model's family or else by the usual names in its configuration."""
    config: Any = model.config
    family = next((family for family in reversed(families().values()) if config.model_type in family.model_types), None)
    if family is not None:
        return list(family.placeholders(model).values())
    names = ("image_token_id", "image_token_index", "video_token_id")
    return [value for name in names if isinstance(value := getattr(config, name, None), int)]


def named_placeholder_ids(model: nn.Module) -> list[int]:
    """As `placeholder_ids`, of a model that must name at least one.

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
