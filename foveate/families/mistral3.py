"""Pixtral towers: pictures of any size in rows of patches, with a break token, which is plain text, after each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS, Family, register
from foveate.families.kit.features import fold_rows_of_patches, rows_of_patches
from foveate.families.kit.layout import Encoding, ImageTokens, place
from foveate.families.kit.processors import whole_picture
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.kit.towers import feature_attention

__all__ = ["Mistral3"]


class Mistral3(Family):
    """`Mistral3ForConditionalGeneration` (mistralai/Mistral-Small-3.1-24B-Instruct-2503, ...) and LightOnOCR."""

    name = "mistral3"
    summary = "Mistral Small 3.x and LightOnOCR: a Pixtral tower, pictures of any size, breaks between rows"
    model_types = ("mistral3", "lighton_ocr")
    signals = DECODER_SIGNALS | TOWER_SIGNALS

    def check(self, model: nn.Module) -> None:
        """Checks nothing: every variant works."""

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; breaks between rows are text and stay."""
        config: Any = model.config
        found = [layout for call in seen for layout in rows_of_patches(call, config.vision_config.patch_size * config.spatial_merge_size)]
        return place(input_ids, {"image": self.placeholders(model)["image"]}, {"image": found})

    def regions(self, request: RegionRequest) -> Regions:
        """The whole picture: it is resized to whole tokens, and padded only beyond them."""
        return whole_picture(request, "PixtralImageProcessor")

    def tower(self, model: nn.Module) -> nn.Module:
        """See `Family.tower`."""
        backbone: Any = self.backbone(model)
        return backbone.vision_tower if hasattr(backbone, "vision_tower") else backbone.vision_encoder

    def projector(self, model: nn.Module) -> nn.Module:
        """See `Family.projector`."""
        backbone: Any = self.backbone(model)
        return backbone.multi_modal_projector if hasattr(backbone, "multi_modal_projector") else backbone.vision_projection

    def tower_attention(self, model: nn.Module) -> nn.Module:
        """See `Family.tower_attention`."""
        return feature_attention(self.tower(model), model.config)

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """Merged patches become one token: their attention is averaged, their states are concatenated."""
        config: Any = model.config
        return fold_rows_of_patches(signal, values, seen, config.vision_config.patch_size, config.spatial_merge_size)


register(Mistral3())
