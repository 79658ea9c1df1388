"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT, and videos whose frames are pooled, without newlines."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from foveate.families.base import register
from foveate.families.kit.anyres import side
from foveate.families.kit.features import clips
from foveate.families.kit.layout import Encoding, Layout
from foveate.families.kit.processors import centred, known_processor
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.llava_next import LlavaNext

__all__ = ["LlavaNextVideo"]


class LlavaNextVideo(LlavaNext):
    """`LlavaNextVideoForConditionalGeneration` (llava-hf/LLaVA-NeXT-Video-7B-hf, ...)."""

    name = "llava-next-video"
    summary = "LLaVA-NeXT-Video: LLaVA-NeXT pictures, and videos of pooled frames"
    model_types = ("llava_next_video",)
    takes = frozenset({"image", "several images", "video"})

    def layouts(self, config: Any, seen: Encoding) -> list[Layout]:
        """Pictures as in LLaVA-NeXT; a video is frames x rows x columns of pooled patches."""
        if seen.kind == "image":
            return super().layouts(config, seen)
        videos, frames = clips(seen)
        pooled = side(config) // config.spatial_pool_stride
        return [Layout(((frames, pooled, pooled),))] * videos

    def regions(self, request: RegionRequest) -> Regions:
        """Pictures as in LLaVA-NeXT; frames as their own processor is set, by default the centred square."""
        if not request.video:
            return super().regions(request)
        known_processor(request.settings, "LlavaNextVideoVideoProcessor")
        token = request.config.vision_config.patch_size * request.config.spatial_pool_stride
        return (centred(request).region(request, request.only, token),)

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """Pictures as in LLaVA-NeXT; the model pools a video's states before projection, and this pools its attention."""
        if seen.kind == "image":
            return super().fold(model, signal, values, seen)
        config: Any = model.config
        _, frames = clips(seen)
        pooled = side(config) // config.spatial_pool_stride
        if signal == "tower_attention":
            squares = values.view(-1, 1, side(config), side(config))
            values = F.avg_pool2d(squares, config.spatial_pool_stride).flatten()[:, None]
        return list(values.split(frames * pooled**2))


register(LlavaNextVideo())
