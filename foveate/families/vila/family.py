"""VILA1.5: a SigLIP or InternViT tower, 2 x 2 patches to a token, and a Llama-like decoder; a video is a row of images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import UnsupportedModelError
from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS, Family, register
from foveate.families.kit.layout import Encoding, ImageTokens, Layout, place
from foveate.families.kit.processors import centred, known_processor
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.kit.towers import feature_attention, feature_block
from foveate.families.vila import internvit
from foveate.families.vila.configuration import SIGLIP, image_side, patch_side

__all__ = ["Vila"]


class Vila(Family):
    """`VilaForConditionalGeneration` (Efficient-Large-Model/VILA1.5-3b, Llama-3-VILA1.5-8B, VILA1.5-13b, VILA1.5-40b)."""

    name = "vila"
    summary = (
        "VILA1.5 3B, 8B, 13B and 40B layouts: SigLIP or InternViT tower, 2 x 2 patches to a token, Llama-like decoder; "
        "read from the release's folder"
    )
    model_types = ("llava_llama",)
    takes = frozenset({"image", "several images", "frames"})
    signals = DECODER_SIGNALS | TOWER_SIGNALS

    def check(self, model: nn.Module) -> None:
        """Refuse other models with this model type; the configuration refuses variants when it is read."""
        tower = getattr(getattr(model.config, "vision_config", None), "model_type", None)
        if tower not in (SIGLIP, internvit.MODEL_TYPE) or not hasattr(self.backbone(model), "multi_modal_projector"):
            raise UnsupportedModelError(
                f"{type(model).__name__} is a 'llava_llama' model that was not loaded by foveate; load it with "
                f"AutoModelForImageTextToText.from_pretrained(folder) after importing foveate.families"
            )

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; every image has the same grid, and its tokens are in column-major order in the prompt."""
        side = image_side(model.config)
        order = torch.arange(side * side).view(side, side).T.flatten()
        same = itertools.repeat(Layout(((1, side, side),), content=order, placeholders=side * side))
        return place(input_ids, self.placeholders(model), {"image": same if seen else ()})

    def regions(self, request: RegionRequest) -> Regions:
        """The squeezed picture; with an odd number of patches per side, the last token covers one patch, not two."""
        known_processor(request.settings, "SiglipImageProcessor")
        patches = patch_side(request.config)
        patch = request.config.vision_config.patch_size
        size = patch if isinstance(patch, int) else patch[0]
        return (centred(request).region(request, request.only, 2 * size, patches * size),)

    def tower_attention(self, model: nn.Module) -> nn.Module:
        """See `Family.tower_attention`."""
        tower: Any = self.tower(model)
        if self.class_token(model):
            return tower.encoder.layer[feature_block(model.config)].attention  # type: ignore[no-any-return]
        return feature_attention(tower, model.config)

    def class_token(self, model: nn.Module) -> bool:
        """InternViT has one; SigLIP does not."""
        config: Any = model.config
        return bool(config.vision_config.model_type == internvit.MODEL_TYPE)

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """The mean over the patches that become one token: four, or fewer at an odd edge."""
        side = patch_side(model.config)
        square = values.unflatten(0, (-1, side, side)).movedim(-1, 1)
        joined = F.avg_pool2d(square, 2, ceil_mode=True, count_include_pad=False)
        return list(joined.flatten(2).transpose(1, 2))


register(Vila())
