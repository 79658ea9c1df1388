"""LLaVA-OneVision: tiles of any shape with newlines, plain squares where there are several pictures, and pooled video frames."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import UnsupportedError
from foveate.families.base import register
from foveate.families.kit.anyres import Tiling, regions, side, spatial_size
from foveate.families.kit.features import argument, clips
from foveate.families.kit.layout import Encoding, Layout
from foveate.families.kit.processors import centred, known_processor, square
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.llava_next import LlavaNext

__all__ = ["LlavaOnevision"]


class LlavaOnevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration` (llava-hf/llava-onevision-qwen2-7b-ov-hf, ...)."""

    name = "llava-onevision"
    summary = "LLaVA-OneVision: one picture in tiles, several as squares, videos of pooled frames; SigLIP and Qwen2"
    model_types = ("llava_onevision",)
    takes = frozenset({"image", "several images", "video"})

    def layouts(self, config: Any, seen: Encoding) -> list[Layout]:
        """Newlines stay, and the one behind a video too."""
        if seen.kind == "image":
            return super().layouts(config, seen)
        videos, frames = clips(seen)
        pooled = _pooled(config)
        tokens = frames * pooled**2
        return [Layout(((frames, pooled, pooled),), torch.arange(tokens), tokens + 1)] * videos

    def pictures(self, config: Any, seen: Encoding) -> list[Tiling]:
        """In tiles where a sample has one picture; whole where it has several."""
        sizes = argument(seen, "image_sizes").tolist()
        aspect = seen.arguments.get("vision_aspect_ratio") or config.vision_aspect_ratio
        most = _most(aspect)
        per_sample = seen.arguments.get("batch_num_images")
        # Without the counts transformers treats every picture as the only one of its sample.
        alone = [True] * len(sizes) if per_sample is None else [int(n) == 1 for n in per_sample for _ in range(int(n))]
        return [
            spatial_size(config, int(height), int(width), most=most) if single else Tiling(side(config))
            for (height, width), single in zip(sizes, alone, strict=True)
        ]

    def regions(self, request: RegionRequest) -> Regions:
        """A squeezed whole and tiles of a picture that is alone; one that is not, with borders to a square; frames squeezed.

        Raises:
            UnsupportedError: the picture is so long that it has no tiles either way, and there are several.
        """
        config, (width, height) = request.config, request.size
        patches, patch = side(config), config.vision_config.patch_size
        if request.video:
            known_processor(request.settings, "LlavaOnevisionVideoProcessor")
            # Patches are scaled to half as many a side, rounded up.
            return (centred(request).region(request, request.only, patches * patch / _pooled(config), patches * patch),)
        picture = spatial_size(config, height, width, most=_most(config.vision_aspect_ratio))
        if len(request.parts) == 1 and request.pictures > 1:
            if not math.prod(picture.size):
                raise UnsupportedError(f"a picture of {width} x {height} pixels has no tiles, so it is not known whether it got borders")
            known_processor(request.settings, "LlavaOnevisionImageProcessor")
            return (square(request).region(request, request.only, patch),)
        return regions(request, picture, "LlavaOnevisionImageProcessor")

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """As the model folds its features: joined, unpadded and scaled pictures; frames scaled to half their sides."""
        if seen.kind == "image":
            return super().fold(model, signal, values, seen)
        config: Any = model.config
        patches, pooled = side(config), _pooled(config)
        frames = values.view(-1, patches, patches, values.shape[-1]).permute(0, 3, 1, 2)
        small = F.interpolate(frames, (pooled, pooled), mode="bilinear").permute(0, 2, 3, 1).flatten(1, 2)
        _, frames_each = clips(seen)
        return [part.flatten(0, 1) for part in small.split(frames_each)]


def _most(aspect: str) -> int:
    """How many times the whole's patches the tiles may have."""
    return int(aspect.removeprefix("anyres_max_"))


def _pooled(config: Any) -> int:
    return math.ceil(side(config) / 2)


register(LlavaOnevision())
