"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT, and videos whose frames are pooled, without newlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.families.anyres import layouts, side
from foveate.families.base import DECODER_SIGNALS, register
from foveate.families.features import clips
from foveate.families.layout import Encoding, ImageTokens, Kind, Layout, place
from foveate.families.llava_next import LlavaNext, pictures

__all__ = ["LlavaNextVideo"]


class LlavaNextVideo(LlavaNext):
    """`LlavaNextVideoForConditionalGeneration` (llava-hf/LLaVA-NeXT-Video-7B-hf, ...)."""

    name = "llava-next-video"
    summary = "LLaVA-NeXT-Video: LLaVA-NeXT pictures, and videos of pooled frames"
    model_types = ("llava_next_video",)
    takes = frozenset({"image", "several images", "video"})
    signals = DECODER_SIGNALS

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; a video is frames x rows x columns of pooled patches."""
        config: Any = model.config
        found: dict[Kind, Sequence[Layout]] = {}
        for call in seen:
            found[call.kind] = layouts(pictures(config, call), call) if call.kind == "image" else _videos(config, call)
        return place(input_ids, self.placeholders(model), found)


def _videos(config: Any, seen: Encoding) -> list[Layout]:
    videos, frames = clips(seen)
    pooled = side(config) // config.spatial_pool_stride
    return [Layout(((frames, pooled, pooled),), torch.arange(frames * pooled**2), frames * pooled**2)] * videos


register(LlavaNextVideo())
