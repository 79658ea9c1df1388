"""InternVL in transformers' own layout, and models built like it: crops of one size, pixel shuffle after the tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveate.errors import UnsupportedModelError
from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS, Family, register
from foveate.families.kit.features import blocks, check_encoded
from foveate.families.kit.layout import Encoding, ImageTokens, place
from foveate.families.kit.processors import known_processor, tiled_canvas
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.kit.runs import crops_per_run
from foveate.families.kit.towers import feature_block

__all__ = ["InternVL"]


class InternVL(Family):
    """`InternVLForConditionalGeneration` (OpenGVLab/InternVL3-8B-hf, ...) and `QianfanOCRForConditionalGeneration`."""

    name = "internvl"
    summary = "InternVL (2.5, 3, 3.5) in transformers' layout, and Qianfan-OCR: crops and a thumbnail, pixel shuffle"
    model_types = ("internvl", "qianfan_ocr")
    takes = frozenset({"image", "several images", "frames"})
    signals = DECODER_SIGNALS | TOWER_SIGNALS

    def check(self, model: nn.Module) -> None:
        """Refuse a class token among the patches: the pixel shuffle needs a square."""
        config: Any = model.config
        if config.vision_feature_select_strategy != "default":
            raise UnsupportedModelError(
                f"vision_feature_select_strategy={config.vision_feature_select_strategy!r} leaves the class token among the "
                f"patches, which then do not form a square; it takes 'default'"
            )

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; all crops of an image, with the thumbnail last, share one budget."""
        token = self.placeholders(model)["image"]
        rows, columns = crop_grid(model.config)
        found = crops_per_run(input_ids, token, (1, rows, columns))
        if seen:
            check_encoded(sum(layout.placeholders for layout in found), seen)
        return place(input_ids, {"image": token}, {"image": found if seen else ()})

    def regions(self, request: RegionRequest) -> Regions:
        """Crops row by row, then the whole picture; a frame, or a picture with one crop, is squeezed into that crop."""
        known_processor(request.settings, "GotOcr2ImageProcessor", "InternVLVideoProcessor")
        return tiled_canvas(request, token_side(request.config))

    def tower_attention(self, model: nn.Module) -> nn.Module:
        """See `Family.tower_attention`."""
        tower: Any = self.tower(model)
        layers = tower.encoder.layer if hasattr(tower, "encoder") else tower.layers
        return layers[feature_block(model.config)].attention

    def class_token(self, model: nn.Module) -> bool:
        """InternViT has one; the pixel shuffle comes after it is dropped."""
        return True

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """Features are projected in the order of tokens; attention is averaged over the patches that become one token."""
        rows, columns = crop_grid(model.config)
        if signal == "tower_attention":
            high, wide = patch_grid(model.config)
            values = blocks(values, high, wide, high // rows).mean(2).flatten(0, 1)
        return list(values.split(rows * columns))


def patch_grid(config: Any) -> tuple[int, int]:
    """Rows and columns of patches in one crop."""
    vision = config.vision_config
    high, wide = (side // patch for side, patch in zip(vision.image_size, vision.patch_size, strict=True))
    return high, wide


def token_side(config: Any) -> float:
    """Pixels per token, across and down."""
    return float(config.vision_config.patch_size[0] / config.downsample_ratio)


def crop_grid(config: Any) -> tuple[int, int]:
    """Rows and columns of tokens in one crop."""
    high, wide = patch_grid(config)
    return int(high * config.downsample_ratio), int(wide * config.downsample_ratio)


register(InternVL())
