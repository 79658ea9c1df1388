"""Qwen3-VL: like Qwen2-VL, with features of earlier tower layers added after the decoder's first layers (DeepStack)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from foveate.families.base import register
from foveate.families.qwen2_vl import Qwen2VL

__all__ = ["Qwen3VL"]


class Qwen3VL(Qwen2VL):
    """`Qwen3VLForConditionalGeneration` and its mixture of experts (Qwen/Qwen3-VL-8B-Instruct, Qwen/Qwen3-VL-30B-A3B-Instruct, ...).

    The frames of a video are separate, each after its time stamp; time stamps are text and stay.
    """

    name = "qwen3-vl"
    summary = "Qwen3-VL, dense and mixture of experts: any resolution, DeepStack features, video with time stamps"
    model_types = ("qwen3_vl", "qwen3_vl_moe")
    injects = True

    def injected(self, kwargs: dict[str, Any]) -> tuple[Tensor, Sequence[Tensor]] | None:
        """See `Family.injected`; after a cut the decoder itself would add them to positions that no longer exist."""
        mask, features = kwargs.pop("visual_pos_masks", None), kwargs.pop("deepstack_visual_embeds", None)
        return (mask, features) if mask is not None and features else None


register(Qwen3VL())
