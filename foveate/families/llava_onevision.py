"""LLaVA-OneVision: tiles with newlines for one picture, plain squares for several, and pooled video frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
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

__all__ = ["LlavaOnevision", "clip_layout", "fold_clips"]


class LlavaOnevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration` (llava-hf/llava-onevision-qwen2-7b-ov-hf, ...)."""

    name = "llava-onevision"
    summary = "LLaVA-OneVision: one picture in tiles, several as squares, videos of pooled frames; SigLIP and Qwen2"
    model_types = ("llava_onevision",)
    takes = frozenset({"image", "several images", "video"})

    def layouts(self, config: Any, seen: Encoding) -> list[Layout]:
        """Newlines stay, including the one after a video."""
        if seen.kind == "image":
            return super().layouts(config, seen)
        videos, frames = clips(seen)
        return [clip_layout(config, frames)] * videos

    def pictures(self, config: Any, seen: Encoding) -> list[Tiling]:
        """Tiles if a sample has one picture; whole pictures if it has several."""
        sizes = argument(seen, "image_sizes").tolist()
        aspect = seen.arguments.get("vision_aspect_ratio") or config.vision_aspect_ratio
        most = _most(aspect)
        per_sample = seen.arguments.get("batch_num_images")
        # Without the counts, transformers treats every picture as the only one of its sample.
        alone = [True] * len(sizes) if per_sample is None else [int(n) == 1 for n in per_sample for _ in range(int(n))]
        return [
            spatial_size(config, int(height), int(width), most=most) if single else Tiling(side(config))
            for (height, width), single in zip(sizes, alone, strict=True)
        ]

    def regions(self, request: RegionRequest) -> Regions:
        """The squeezed whole and tiles of a single picture; each of several with borders that make it square; squeezed frames.

        Raises:
            UnsupportedError: there are several pictures, and this one is so long that it would have no tiles either way.
        """
        config, (width, height) = request.config, request.size
        patches, patch = side(config), config.vision_config.patch_size
        if request.video:
            known_processor(request.settings, "LlavaOnevisionVideoProcessor")
            # Frames are scaled to half as many patches per side, rounded up.
            return (centred(request).region(request, request.only, patches * patch / _pooled(config), patches * patch),)
        picture = spatial_size(config, height, width, most=_most(config.vision_aspect_ratio))
        if len(request.parts) == 1 and request.pictures > 1:
            if not math.prod(picture.size):
                raise UnsupportedError(
                    f"a picture of {width} x {height} pixels has no tiles, so it is unknown whether it was given borders"
                )
            known_processor(request.settings, "LlavaOnevisionImageProcessor")
            return (square(request).region(request, request.only, patch),)
        return regions(request, picture, "LlavaOnevisionImageProcessor")

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """As the model treats its features: pictures joined, unpadded and scaled; frames scaled to half their sides."""
        if seen.kind == "image":
            return super().fold(model, signal, values, seen)
        videos, frames = clips(seen)
        return fold_clips(model.config, values, [frames] * videos)


def clip_layout(config: Any, frames: int) -> Layout:
    """The layout of a video: pooled frames, and one newline after the last."""
    pooled = _pooled(config)
    tokens = frames * pooled**2
    return Layout(((frames, pooled, pooled),), torch.arange(tokens), tokens + 1)


def fold_clips(config: Any, values: Tensor, frames: Sequence[int]) -> list[Tensor]:
    """Values (patches, c) of several videos, one after the other, as the model pools its features.

    Args:
        config: the model's configuration.
        values: in the tower's order.
        frames: how many each video has.

    Returns:
        per video (n, c).
    """
    patches, pooled = side(config), _pooled(config)
    large = values.view(-1, patches, patches, values.shape[-1]).permute(0, 3, 1, 2)
    small = F.interpolate(large, (pooled, pooled), mode="bilinear").permute(0, 2, 3, 1).flatten(1, 2)
    return [part.flatten(0, 1) for part in small.split(list(frames))]


def _most(aspect: str) -> int:
    """How many times as many patches as the whole picture the tiles may have."""
    return int(aspect.removeprefix("anyres_max_"))


def _pooled(config: Any) -> int:
    return math.ceil(side(config) / 2)


register(LlavaOnevision())
