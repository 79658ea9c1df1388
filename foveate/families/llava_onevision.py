"""LLaVA-OneVision: tiles of any shape with newlines, plain squares where there are several pictures, and pooled video frames."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.families.anyres import Picture, side, spatial_size
from foveate.families.base import register
from foveate.families.features import argument, clips
from foveate.families.layout import Encoding, Layout
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

    def pictures(self, config: Any, seen: Encoding) -> list[Picture]:
        """In tiles where a sample has one picture; whole where it has several."""
        sizes = argument(seen, "image_sizes").tolist()
        aspect = seen.arguments.get("vision_aspect_ratio") or config.vision_aspect_ratio
        most = int(aspect.removeprefix("anyres_max_"))
        per_sample = seen.arguments.get("batch_num_images")
        # Without the counts transformers treats every picture as the only one of its sample.
        alone = [True] * len(sizes) if per_sample is None else [int(n) == 1 for n in per_sample for _ in range(int(n))]
        return [
            spatial_size(config, int(height), int(width), most=most) if single else Picture(side(config))
            for (height, width), single in zip(sizes, alone, strict=True)
        ]

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


def _pooled(config: Any) -> int:
    return math.ceil(side(config) / 2)


register(LlavaOnevision())
