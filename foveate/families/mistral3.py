"""Pixtral towers: pictures of any size in rows of patches, with a break token behind each row that is plain text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveate.families.base import Family, register
from foveate.families.features import rows_of_patches
from foveate.families.layout import Encoding, ImageTokens, place

__all__ = ["Mistral3"]


class Mistral3(Family):
    """`Mistral3ForConditionalGeneration` (mistralai/Mistral-Small-3.1-24B-Instruct-2503, ...) and LightOnOCR."""

    name = "mistral3"
    summary = "Mistral Small 3.x and LightOnOCR: a Pixtral tower, pictures of any size, breaks between rows"
    model_types = ("mistral3", "lighton_ocr")

    def check(self, model: nn.Module) -> None:
        """Nothing varies that matters."""

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; breaks between rows are text and stay."""
        config: Any = model.config
        found = [layout for call in seen for layout in rows_of_patches(call, config.vision_config.patch_size * config.spatial_merge_size)]
        return place(input_ids, {"image": self.placeholders(model)["image"]}, {"image": found})

    def tower(self, model: nn.Module) -> nn.Module:
        """See `Family.tower`."""
        backbone: Any = self.backbone(model)
        return backbone.vision_tower if hasattr(backbone, "vision_tower") else backbone.vision_encoder

    def projector(self, model: nn.Module) -> nn.Module:
        """See `Family.projector`."""
        backbone: Any = self.backbone(model)
        return backbone.multi_modal_projector if hasattr(backbone, "multi_modal_projector") else backbone.vision_projection


register(Mistral3())
