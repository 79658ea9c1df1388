"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT, and videos whose frames are pooled, without newlines."""

from __future__ import annotations

from typing import Any

from foveate.families.anyres import side
from foveate.families.base import DECODER_SIGNALS, register
from foveate.families.features import clips
from foveate.families.layout import Encoding, Layout
from foveate.families.llava_next import LlavaNext

__all__ = ["LlavaNextVideo"]


class LlavaNextVideo(LlavaNext):
    """`LlavaNextVideoForConditionalGeneration` (llava-hf/LLaVA-NeXT-Video-7B-hf, ...)."""

    name = "llava-next-video"
    summary = "LLaVA-NeXT-Video: LLaVA-NeXT pictures, and videos of pooled frames"
    model_types = ("llava_next_video",)
    takes = frozenset({"image", "several images", "video"})
    signals = DECODER_SIGNALS

    def layouts(self, config: Any, seen: Encoding) -> list[Layout]:
        """Pictures as in LLaVA-NeXT; a video is frames x rows x columns of pooled patches."""
        if seen.kind == "image":
            return super().layouts(config, seen)
        videos, frames = clips(seen)
        pooled = side(config) // config.spatial_pool_stride
        return [Layout(((frames, pooled, pooled),))] * videos


register(LlavaNextVideo())
