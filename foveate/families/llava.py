"""LLaVA-1.5 and its kin: a CLIP or SigLIP tower with a fixed number of tokens per image, and a Llama-like decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from foveate.errors import UnsupportedModelError
from foveate.families.base import Family, ImageTokens, register, split_evenly

__all__ = ["Llava"]

_TOWERS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Vision towers whose token count follows from the configuration, with the number of class tokens in front."""


class Llava(Family):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP tower (llava-hf/llava-1.5-7b-hf, -13b-hf, ...)."""

    name = "llava"
    summary = "LLaVA-1.5 7B and 13B layouts: CLIP or SigLIP tower, fixed tokens per image, Llama-like decoder"
    model_types = ("llava",)

    def check(self, model: nn.Module) -> None:
        """Refuse towers with a varying number of tokens (Pixtral, ...), whose rows of patches need a family of their own."""
        tower = model.config.vision_config.model_type  # type: ignore[union-attr]
        if tower not in _TOWERS:
            raise UnsupportedModelError(f"a LLaVA with vision tower {tower!r} is not supported; towers that are: {', '.join(_TOWERS)}")

    def images(self, model: nn.Module, input_ids: Tensor, inputs: Mapping[str, Any]) -> list[list[ImageTokens]]:
        """See `Family.images`; every image has the same grid, which follows from the configuration."""
        config: Any = model.config
        grid = image_grid(config)
        visual: Tensor = input_ids == config.image_token_id
        return [split_evenly(row.nonzero().squeeze(1), grid) for row in visual]


def image_grid(config: Any) -> tuple[int, int, int]:
    """(1, h, w) of each image; (1, 1, n) where a class token or a cropped patch breaks the rectangle."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    extra = _TOWERS[vision.model_type] - (config.vision_feature_select_strategy == "default")
    return (1, side, side) if extra == 0 else (1, 1, side * side + extra)


register(Llava())
