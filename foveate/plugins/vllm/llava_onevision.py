"""LLaVA-OneVision under vLLM: every picture in tiles with newlines, and videos of pooled frames.

vLLM shows each of several pictures in tiles. The chat templates of transformers show several pictures as squares without tiles. vLLM also
scales tiles down above nine times the whole picture's patches, whatever `vision_aspect_ratio` the configuration gives. What is served
follows vLLM in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor
from vllm.model_executor.models import llava_onevision
from vllm.multimodal import MULTIMODAL_REGISTRY

from foveate.families.kit.layout import Layout, MediaKind
from foveate.families.llava_onevision import clip_layout, fold_clips
from foveate.plugins.vllm.llava_next import ServedLlavaNext, largest_budget, length, some
from foveate.plugins.vllm.model import UNWRAPPED_TOWER
from foveate.plugins.vllm.positions import PositionedModel
from foveate.plugins.vllm.processing import FrontProcessor

__all__ = ["FoveateLlavaOnevisionForConditionalGeneration", "ServedLlavaOnevision"]


class ServedLlavaOnevision(ServedLlavaNext):
    """`LlavaOnevisionForConditionalGeneration`. A video's `keep` counts per frame, and the newline after it stays."""

    placeholders: Mapping[MediaKind, str] = MappingProxyType({"image": "image_token_index", "video": "video_token_index"})
    most = 9

    def front_layout(self, config: Any, kind: MediaKind, item: Any, kwargs: Mapping[str, Any]) -> Layout:
        """It follows from the picture's size, or from the number of frames."""
        if kind == "video":
            return clip_layout(config, len(kwargs["pixel_values_videos"]))
        return super().front_layout(config, kind, item, kwargs)

    def layouts(self, config: Any, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Layout]:
        """They follow from the pictures' sizes, or from the numbers of frames."""
        if kind == "video":
            return [clip_layout(config, len(frames)) for frames in kwargs["pixel_values_videos"]]
        return super().layouts(config, kind, kwargs)

    def length(self, config: Any, kind: MediaKind, item: Mapping[str, Any]) -> int:
        """It follows from the picture's size, or from the number of frames."""
        if kind == "image":
            return super().length(config, kind, item)
        frames = item["pixel_values_videos"]
        alone = frames[0] if not isinstance(frames, Tensor) or frames.ndim == 5 else frames
        return clip_layout(config, len(alone)).placeholders

    def subset(self, kind: MediaKind, kwargs: Mapping[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """Pixels of some pictures or videos; videos of different lengths are a list."""
        if kind == "video":
            return {"pixel_values_videos": some(kwargs["pixel_values_videos"], chosen)}
        return super().subset(kind, kwargs, chosen)

    def fold(self, config: Any, signal: str, values: Tensor, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Pictures are joined, unpadded and scaled; frames are pooled, as the model does with their features."""
        if kind == "video":
            return fold_clips(config, values, [len(frames) for frames in kwargs["pixel_values_videos"]])
        return super().fold(config, signal, values, kind, kwargs)


class _Info(llava_onevision.LlavaOnevisionProcessingInfo):
    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """vLLM refuses longer items; without this it takes a picture of 1153 x 944 pixels for the longest, which it is not.

        Videos may have as many frames as without compression, where pictures are so long that the limit is theirs.
        """
        config, method = self.get_hf_config(), largest_budget(self)
        uncompressed = ServedLlavaOnevision().longest(config, replace(method, keep=1.0))
        fitting = uncompressed // clip_layout(config, 1).placeholders
        clip = clip_layout(config, max(fitting, self.get_num_frames_with_most_features(seq_len, mm_counts)))
        return {"image": ServedLlavaOnevision().longest(config, method), "video": length(clip, method)}


class _Processor(FrontProcessor, llava_onevision.LlavaOnevisionMultiModalProcessor):
    architecture = ServedLlavaOnevision()


@MULTIMODAL_REGISTRY.register_processor(
    _Processor,
    info=_Info,
    dummy_inputs=llava_onevision.LlavaOnevisionDummyInputsBuilder,
)
class FoveateLlavaOnevisionForConditionalGeneration(PositionedModel, llava_onevision.LlavaOnevisionForConditionalGeneration):
    """vLLM's LLaVA-OneVision with a fraction of the visual tokens."""

    architecture = ServedLlavaOnevision()
    # transformers saves (in 5.19 and later) the tower without the wrapper `vision_model`.
    hf_to_vllm_mapper = llava_onevision.LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper | UNWRAPPED_TOWER

    def _process_video_pixels(self, inputs: Any) -> list[Tensor]:
        """As vLLM's; it gives videos of different lengths in one batch one dimension too many, which its own runner refuses."""
        return [rows.flatten(0, -2) for rows in super()._process_video_pixels(inputs)]
