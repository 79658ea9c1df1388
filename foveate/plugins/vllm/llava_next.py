"""LLaVA-NeXT (1.6) under vLLM: the whole picture, then its tiles without padding, with a newline after each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import llava, llava_next
from vllm.multimodal import MULTIMODAL_REGISTRY

from foveate.errors import UnsupportedModelError
from foveate.families.kit.anyres import Tiling, check_class_token, spatial_size
from foveate.families.kit.layout import Layout, MediaKind
from foveate.families.kit.towers import single_layer
from foveate.method import Method
from foveate.plugins.vllm.llava import ServedLlava
from foveate.plugins.vllm.model import UNWRAPPED_TOWER
from foveate.plugins.vllm.positions import PositionedModel
from foveate.plugins.vllm.processing import FrontProcessor
from foveate.plugins.vllm.settings import KEY, ServingSettings

__all__ = ["FoveateLlavaNextForConditionalGeneration", "ServedLlavaNext"]


class ServedLlavaNext(ServedLlava):
    """`LlavaNextForConditionalGeneration` with a CLIP or SigLIP tower. Newlines always stay, and no budget counts them."""

    most: int | None = None
    """How many times as many patches as the whole picture the tiles may have before vLLM scales them down; `None`: no limit."""

    def check(self, config: Any) -> None:
        """Refuse towers whose patches do not form a square, and features that are no grid of patches."""
        check_class_token(config)
        if not single_layer(config):
            raise UnsupportedModelError("a model with tiles and features of several tower layers is not served")

    def front_layout(self, config: Any, kind: MediaKind, item: Any, kwargs: Mapping[str, Any]) -> Layout:
        """It follows from the picture's size."""
        return self._picture(config, kwargs["image_sizes"]).layout()

    def layouts(self, config: Any, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Layout]:
        """They follow from the pictures' sizes."""
        return [self._picture(config, size).layout() for size in kwargs["image_sizes"]]

    def length(self, config: Any, kind: MediaKind, item: Mapping[str, Any]) -> int:
        """It follows from the picture's size."""
        return self._picture(config, torch.as_tensor(item["image_sizes"]).reshape(2)).layout().placeholders

    def subset(self, kind: MediaKind, kwargs: Mapping[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """Pixels and sizes of some pictures; pictures with different numbers of tiles are a list."""
        return {name: some(kwargs[name], chosen) for name in ("pixel_values", "image_sizes")}

    def fold(self, config: Any, signal: str, values: Tensor, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Tiles are joined and their padding is removed, as the model does with their features."""
        pictures = [self._picture(config, size) for size in kwargs["image_sizes"]]
        # Pictures that were processed together were given as many tiles as the largest one; the tower sees the empty ones too.
        seen = [len(pixels) * picture.side**2 for pixels, picture in zip(kwargs["pixel_values"], pictures, strict=True)]
        return [picture.fold(part[: picture.patches]) for picture, part in zip(pictures, values.split(seen), strict=True)]

    def longest(self, config: Any, method: Method) -> int:
        """The most placeholders that a picture can have.

        Every newline stays, so a long column of tiles may need more of them than the picture with the most patches. Pictures that fill
        all of a canvas but some of its last row or column of tiles are enough to try.
        """
        step = config.vision_config.patch_size
        sizes = {
            size
            for height, width in config.image_grid_pinpoints
            for less in range(0, config.vision_config.image_size, step)
            for size in ((height - less, width), (height, width - less))
        }
        return max(length(self._picture(config, torch.tensor(size)).layout(), method) for size in sizes)

    def _picture(self, config: Any, size: Tensor) -> Tiling:
        height, width = size.tolist()
        return spatial_size(config, int(height), int(width), most=self.most)


def some(values: Tensor | Sequence[Tensor], chosen: Sequence[int]) -> Tensor | list[Tensor]:
    """Those of some items, out of a batch that vLLM stacked or, where sizes differ, listed."""
    return values[list(chosen)] if isinstance(values, Tensor) else [values[number] for number in chosen]


def length(layout: Layout, method: Method) -> int:
    """Placeholders that remain of an item."""
    tokens = layout.placeholders if layout.content is None else len(layout.content)
    return layout.placeholders - tokens + method.budget(tokens, layout.grid[0])


class _Info(llava_next.LlavaNextProcessingInfo):
    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """vLLM refuses longer items; without this it takes the picture with the most patches for the longest."""
        return {"image": ServedLlavaNext().longest(self.get_hf_config(), largest_budget(self))}


def largest_budget(info: Any) -> Method:
    """The method with the largest budget that a request may ask for."""
    return ServingSettings.from_dict(getattr(info.get_hf_config(), KEY, None), info.ctx.model_config.model).most


class _Processor(FrontProcessor, llava_next.LlavaNextMultiModalProcessor):
    architecture = ServedLlavaNext()


@MULTIMODAL_REGISTRY.register_processor(_Processor, info=_Info, dummy_inputs=llava.LlavaDummyInputsBuilder)
class FoveateLlavaNextForConditionalGeneration(PositionedModel, llava_next.LlavaNextForConditionalGeneration):
    """vLLM's LLaVA-NeXT with a fraction of the visual tokens."""

    architecture = ServedLlavaNext()
    # transformers saves (in 5.19 and later) the tower without the wrapper `vision_model`.
    hf_to_vllm_mapper = llava_next.LlavaNextForConditionalGeneration.hf_to_vllm_mapper | UNWRAPPED_TOWER
