"""What foveate must know about one kind of model: `Family`, and the table of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.errors import InputError, UnsupportedModelError

__all__ = ["Family", "ImageTokens", "families", "family_of", "register"]


@dataclass(frozen=True)
class ImageTokens:
    """Where one image (or video) lies in a prompt.

    Args:
        columns: (n,) long on the CPU, ascending columns of `input_ids`.
        grid: (t, h, w) of its tokens.
    """

    columns: Tensor
    grid: tuple[int, int, int]


class Family(ABC):
    """Knows where things live in one kind of model, and nothing of methods. One subclass per file, stateless.

    Attributes:
        name: how people call it.
        summary: one line for lists.
        model_types: the `config.model_type` values that it covers.
        signals: names from `foveate.view.SIGNALS` that it can give.
    """

    name: str
    summary: str
    model_types: tuple[str, ...]
    signals: frozenset[str] = frozenset({"last_attention", "attention_output"})

    @abstractmethod
    def check(self, model: nn.Module) -> None:
        """Refuse a variant that the family cannot handle.

        Raises:
            UnsupportedModelError: saying which setting is in the way.
        """

    @abstractmethod
    def images(self, model: nn.Module, input_ids: Tensor, inputs: Mapping[str, Any]) -> list[list[ImageTokens]]:
        """The images of each row, in the order of the prompt.

        Args:
            model: the model that was given to `compress`.
            input_ids: (b, s) on the CPU.
            inputs: the keyword arguments of the multimodal forward.

        Raises:
            InputError: placeholders that do not make whole images.
        """

    def backbone(self, model: nn.Module) -> nn.Module:
        """The module that joins image features and text and calls the decoder; its forward takes `input_ids`."""
        return model.base_model  # type: ignore[return-value]

    def decoder(self, model: nn.Module) -> nn.Module:
        """The text decoder; its forward takes `inputs_embeds`."""
        return self.backbone(model).language_model  # type: ignore[return-value]

    def layers(self, model: nn.Module) -> Sequence[nn.Module]:
        """The decoder's layers, in order."""
        return self.decoder(model).layers  # type: ignore[return-value]

    def attention(self, layer: nn.Module) -> nn.Module:
        """The self-attention module of one decoder layer."""
        return layer.self_attn  # type: ignore[return-value]


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> Family:
    """Add a family to the table; later entries win for a `model_type` that two of them cover."""
    _FAMILIES[family.name] = family
    return family


def families() -> dict[str, Family]:
    """The known families by name."""
    return dict(_FAMILIES)


def family_of(model: nn.Module) -> Family:
    """The family of a loaded model, after its own check.

    Raises:
        UnsupportedModelError: no family covers `model.config.model_type`, or the variant cannot be handled.
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    for family in reversed(_FAMILIES.values()):
        if kind in family.model_types:
            family.check(model)
            return family
    known = "; ".join(f"{family.name} ({', '.join(family.model_types)})" for family in _FAMILIES.values())
    raise UnsupportedModelError(
        f"{type(model).__name__} with model_type {kind!r} belongs to no known family. Known: {known}. "
        f"To add one, subclass foveate.families.Family and register it (docs/adding_a_family.md)."
    )


def split_evenly(columns: Tensor, grid: tuple[int, int, int]) -> list[ImageTokens]:
    """Split placeholder columns (m,) into images of one size, in order.

    Raises:
        InputError: m is not a whole number of images.
    """
    size = grid[0] * grid[1] * grid[2]
    if columns.numel() % size:
        raise InputError(
            f"{columns.numel()} image placeholders do not make whole images of {size} tokens; "
            f"pass the prompt in one piece, with each image's placeholders complete"
        )
    return [ImageTokens(part, grid) for part in torch.split(columns, size)] if columns.numel() else []
