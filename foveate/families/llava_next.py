"""LLaVA-NeXT (1.6): the whole picture, then its tiles without padding, with a newline after each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS, Family, register
from foveate.families.kit.anyres import Tiling, check_class_token, layouts, regions, spatial_size
from foveate.families.kit.features import argument
from foveate.families.kit.layout import Encoding, ImageTokens, Layout, place
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.kit.towers import feature_attention

__all__ = ["LlavaNext"]


class LlavaNext(Family):
    """`LlavaNextForConditionalGeneration` with a CLIP or SigLIP tower (llava-hf/llava-v1.6-mistral-7b-hf, ...)."""

    name = "llava-next"
    summary = "LLaVA-NeXT (1.6): tiles of any shape with newlines; Vicuna, Mistral, Llama-3 decoders"
    model_types = ("llava_next",)
    signals = DECODER_SIGNALS | TOWER_SIGNALS

    def check(self, model: nn.Module) -> None:
        """Refuse towers whose patches do not form a square."""
        check_class_token(model.config)

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; the whole picture and its tiles share one budget, and newlines stay."""
        return place(input_ids, self.placeholders(model), {call.kind: self.layouts(model.config, call) for call in seen})

    def layouts(self, config: Any, seen: Encoding) -> list[Layout]:
        """The layout of every picture, or video, of one call."""
        return layouts(self.pictures(config, seen), seen)

    def pictures(self, config: Any, seen: Encoding) -> list[Tiling]:
        """The tiling of every picture of one call, which follows from its size in pixels."""
        return [spatial_size(config, int(height), int(width)) for height, width in argument(seen, "image_sizes").tolist()]

    def regions(self, request: RegionRequest) -> Regions:
        """The squeezed whole picture, then the tiles, in which the picture keeps its aspect ratio."""
        width, height = request.size
        return regions(request, spatial_size(request.config, height, width), "LlavaNextImageProcessor")

    def tower_attention(self, model: nn.Module) -> nn.Module:
        """See `Family.tower_attention`."""
        return feature_attention(self.tower(model), model.config)

    def class_token(self, model: nn.Module) -> bool:
        """If there is one, the model's configuration drops it."""
        config: Any = model.config
        return bool(config.vision_feature_select_strategy == "default")

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """Tiles are joined and their padding is removed, as the model does with their features."""
        shown = self.pictures(model.config, seen)
        split = values.split([picture.patches for picture in shown])
        return [picture.fold(part) for picture, part in zip(shown, split, strict=True)]


register(LlavaNext())
