"""LLaVA-1.5 and similar models: a CLIP or SigLIP tower with a fixed number of tokens per image, or Pixtral's rows of patches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveate.errors import UnsupportedError, UnsupportedModelError
from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS, Family, register
from foveate.families.kit.features import fold_rows_of_patches, rows_of_patches
from foveate.families.kit.layout import Encoding, ImageTokens, Layout, place
from foveate.families.kit.processors import SQUARE, centred, known_processor, whole_picture
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.kit.towers import CLASS_TOKENS, feature_attention

__all__ = ["Llava"]

_ROWS = "pixtral"
"""The vision tower whose number of tokens depends on each picture's size."""


class Llava(Family):
    """`LlavaForConditionalGeneration` (llava-hf/llava-1.5-7b-hf, -13b-hf, ...; with Pixtral: mistral-community/pixtral-12b)."""

    name = "llava"
    summary = "LLaVA-1.5 7B and 13B layouts (CLIP or SigLIP, fixed tokens per image), and Pixtral 12B (rows of patches)"
    model_types = ("llava",)
    signals = DECODER_SIGNALS | TOWER_SIGNALS

    def check(self, model: nn.Module) -> None:
        """Refuse other towers, and a feature selection that drops a patch as if it were a class token."""
        config: Any = model.config
        tower, strategy = config.vision_config.model_type, config.vision_feature_select_strategy
        if tower not in (*CLASS_TOKENS, _ROWS):
            known = ", ".join((*CLASS_TOKENS, _ROWS))
            raise UnsupportedModelError(f"a LLaVA with vision tower {tower!r} is not supported; towers that are: {known}")
        if tower == _ROWS and strategy != "full":
            raise UnsupportedModelError(f"vision_feature_select_strategy={strategy!r} drops a patch of {tower}, which takes 'full'")

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; every image has the same grid, given by the configuration, unless the tower makes rows of patches."""
        config: Any = model.config
        if config.vision_config.model_type == _ROWS:
            rows = [layout for call in seen for layout in rows_of_patches(call, config.vision_config.patch_size)]
            return place(input_ids, self.placeholders(model), {"image": rows})
        same = itertools.repeat(Layout((image_grid(config),)))
        return place(input_ids, self.placeholders(model), {"image": same if seen else ()})

    def regions(self, request: RegionRequest) -> Regions:
        """CLIP's centred square, or the squeezed or padded picture, as the processor is set; the whole picture with Pixtral."""
        vision = request.config.vision_config
        if vision.model_type == _ROWS:
            return whole_picture(request, "PixtralImageProcessor")
        known_processor(request.settings, *SQUARE)
        _, rows, columns = image_grid(request.config)
        if rows != columns:
            raise UnsupportedError("class tokens are among this model's visual tokens, so they do not form a grid over the picture")
        return (centred(request).region(request, request.only, vision.patch_size),)

    def gives(self, model: nn.Module) -> frozenset[str]:
        """No tower signals if class tokens are visual tokens or several layers are joined: neither belongs to one patch."""
        config: Any = model.config
        patches = config.vision_config.model_type == _ROWS or image_grid(config)[1] > 1
        return super().gives(model) if patches else self.signals - TOWER_SIGNALS

    def tower_attention(self, model: nn.Module) -> nn.Module:
        """See `Family.tower_attention`."""
        return feature_attention(self.tower(model), model.config)

    def class_token(self, model: nn.Module) -> bool:
        """CLIP has one; SigLIP and Pixtral do not."""
        config: Any = model.config
        return bool(CLASS_TOKENS.get(config.vision_config.model_type))

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """Patches are tokens, in the same order."""
        config: Any = model.config
        if config.vision_config.model_type == _ROWS:
            return fold_rows_of_patches(signal, values, seen, config.vision_config.patch_size)
        grid = image_grid(config)
        return list(values.split(grid[1] * grid[2]))


def image_grid(config: Any) -> tuple[int, int, int]:
    """(1, h, w) of each image; (1, 1, n) if a class token or a missing patch breaks the rectangle."""
    vision = config.vision_config
    side = vision.image_size // vision.patch_size
    extra = CLASS_TOKENS[vision.model_type] - (config.vision_feature_select_strategy == "default")
    return (1, side, side) if extra == 0 else (1, 1, side * side + extra)


register(Llava())
