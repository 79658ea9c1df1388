"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL under vLLM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.models import qwen2_5_vl, qwen2_vl, qwen3_vl
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import PromptUpdateDetails

from foveate.devices import upload
from foveate.errors import ConsistencyError
from foveate.families.kit.layout import Layout, MediaKind
from foveate.families.qwen2_vl import window_order
from foveate.method import Method
from foveate.plugins.vllm.positions import Positioned, PositionedModel, grid_offsets, kind_of
from foveate.plugins.vllm.processing import FrontProcessor

__all__ = [
    "FoveateQwen2VLForConditionalGeneration",
    "FoveateQwen2_5_VLForConditionalGeneration",
    "FoveateQwen3VLForConditionalGeneration",
    "ServedQwenVL",
    "ServedQwen3VL",
]

FRAMES = "foveate_frames"
"""The name under which the token ids before each frame of a video stand beside its pixels, in the worker alone."""
PIXELS: dict[MediaKind, str] = {"image": "pixel_values", "video": "pixel_values_videos"}


class ServedQwenVL(Positioned):
    """Any resolution, several patches per token. Kept tokens stay at their positions in time, row and column."""

    placeholders: Mapping[MediaKind, str] = {"image": "image_token_id", "video": "video_token_id"}
    signals = frozenset({"tower_attention", "tower_states"})

    def grids(self, config: Any, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[tuple[int, int, int]]:
        """(t, h, w) in tokens of each item."""
        side = config.vision_config.spatial_merge_size
        return [(t, h // side, w // side) for t, h, w in _patches(kind, kwargs)]

    def front_layout(self, config: Any, kind: MediaKind, item: Any, kwargs: Mapping[str, Any]) -> Layout:
        """One grid, of the size that the processor chose."""
        return self.layouts(config, kind, kwargs)[0]

    def layouts(self, config: Any, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Layout]:
        """One grid each."""
        return [Layout((grid,)) for grid in self.grids(config, kind, kwargs)]

    def subset(self, kind: MediaKind, kwargs: Mapping[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """Pixels of all items are joined; everything else has one entry for each."""
        parts = kwargs[PIXELS[kind]].split([math.prod(grid) for grid in _patches(kind, kwargs)])
        found: dict[str, Any] = {PIXELS[kind]: torch.cat([parts[number] for number in chosen])}
        for name, value in kwargs.items():
            if name not in found:
                found[name] = value[list(chosen)] if isinstance(value, Tensor) else [value[number] for number in chosen]
        return found

    def tower_attention(self, model: Any) -> nn.Module:
        """The last block's; if blocks use windows, that of the last block that sees the whole frame."""
        whole = getattr(model.visual, "fullatt_block_indexes", None)
        return model.visual.blocks[max(whole) if whole else -1].attn.attn  # type: ignore[no-any-return]

    def projector(self, model: Any) -> nn.Module:
        """The merger's norm, whose input has one row per patch. Mergers that vLLM may compile run without their hooks."""
        merger = model.visual.merger
        return merger.ln_q if hasattr(merger, "ln_q") else merger.norm  # type: ignore[no-any-return]

    def fold(self, config: Any, signal: str, values: Tensor, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Tensor]:
        """The patches of one token are adjacent: their attention is averaged, their states are concatenated."""
        vision, grids = config.vision_config, self.grids(config, kind, kwargs)
        values = values.unflatten(0, (-1, vision.spatial_merge_size**2))
        if getattr(vision, "fullatt_block_indexes", None) is not None:
            side = vision.window_size // vision.spatial_merge_size // vision.patch_size
            values = values[upload(window_order(grids, side), values.device)]
        values = values.mean(1) if signal == "tower_attention" else values.flatten(1)
        return list(values.split([math.prod(grid) for grid in grids]))

    def offsets(self, model: Any, kind: MediaKind, item: Mapping[str, Any]) -> Tensor:
        """(3, N) for all placeholders of a whole item: their positions, counted from the position where it starts."""
        (grid,) = self.grids(model.config, kind, item)
        return grid_offsets(grid, _time_step(model.config, kind, item))

    def extent(self, model: Any, kind: MediaKind, item: Mapping[str, Any]) -> int:
        """How many positions a whole item takes."""
        (grid,) = self.grids(model.config, kind, item)
        return max(int((grid[0] - 1) * _time_step(model.config, kind, item)), *(size - 1 for size in grid[1:])) + 1


class ServedQwen3VL(ServedQwenVL):
    """Like its predecessors, with features of earlier tower layers that the decoder's first layers add to their output.

    The frames of a video are separate, each after its time stamp. How many tokens of each frame stay is not known when the prompt is
    made, so all that a video takes in the prompt, time stamps included, arrives as features in the order that was decided.
    """

    def layouts(self, config: Any, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Layout]:
        """One grid each; in the worker with the text between a video's frames, which stays."""
        grids = self.grids(config, kind, kwargs)
        if FRAMES not in kwargs:
            return [Layout((grid,)) for grid in grids]
        found = []
        for grid, stamps in zip(grids, kwargs[FRAMES], strict=True):
            content, length = _content(grid, stamps)
            found.append(Layout((grid,), content, length))
        return found

    def offsets(self, model: Any, kind: MediaKind, item: Mapping[str, Any]) -> Tensor:
        """As its predecessors for images; a frame of a video starts where the text before it ends."""
        if kind == "image":
            return super().offsets(model, kind, item)
        (grid,) = self.grids(model.config, kind, item)
        parts, position = [], 0
        for stamp in model.stamps(item):
            text = len(stamp) + 1
            parts += [torch.arange(position, position + text).expand(3, -1), grid_offsets((1, *grid[1:])) + position + text]
            position += text + max(grid[1:])
            parts.append(torch.full((3, 1), position))
            position += 1
        return torch.cat(parts, dim=1)

    def extent(self, model: Any, kind: MediaKind, item: Mapping[str, Any]) -> int:
        """See `offsets`; a video ends with the end of its last frame."""
        return super().extent(model, kind, item) if kind == "image" else int(self.offsets(model, kind, item).max()) + 1

    def injections(self, model: Any, rows: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """All features of a token stand in one row."""
        first, *rest = rows.split(model.visual_dim, dim=1)
        return first, rest


class _QwenProcessor(FrontProcessor):
    def reach(self, kind: MediaKind, items: Any, number: int, kwargs: Mapping[str, Any]) -> int:
        """The longer side of an image, in tokens; a video is one item of few."""
        if kind == "video":
            return 0
        size, vision = items.get_image_size(number), self.info.get_hf_config().vision_config
        resized, _ = self.info._get_vision_info(
            image_width=size.width,
            image_height=size.height,
            image_processor=self.info.get_image_processor(**kwargs),
            mm_kwargs=kwargs,
        )
        return max(resized.width, resized.height) // (vision.patch_size * vision.spatial_merge_size)


class _Processor(_QwenProcessor):
    architecture = ServedQwenVL()


class _Processor2(_Processor, qwen2_vl.Qwen2VLMultiModalProcessor):
    pass


class _Processor25(_Processor, qwen2_5_vl.Qwen2_5_VLMultiModalProcessor):
    pass


class _Processor3(_QwenProcessor, qwen3_vl.Qwen3VLMultiModalProcessor):
    architecture = ServedQwen3VL()

    def shortened(self, full: Any, kind: MediaKind, layout: Layout, method: Method) -> Any:
        """See the base class; in a video it is not known yet which frames lose tokens, so the last ones seem to."""
        if kind == "image":
            return super().shortened(full, kind, layout, method)
        token, ids = self.info.get_hf_config().video_token_id, list(full.full)
        tokens = ids.count(token)
        if tokens != layout.placeholders:
            raise ConsistencyError(f"vLLM wants {tokens} placeholders for a video of {layout.placeholders}; its version is not supported")
        seen = accumulate(int(each == token) for each in ids)
        budget = method.budget(tokens, layout.grid[0])
        return PromptUpdateDetails.from_seq([each for each, count in zip(ids, seen, strict=True) if each != token or count <= budget])


@MULTIMODAL_REGISTRY.register_processor(_Processor2, info=qwen2_vl.Qwen2VLProcessingInfo, dummy_inputs=qwen2_vl.Qwen2VLDummyInputsBuilder)
class FoveateQwen2VLForConditionalGeneration(PositionedModel, qwen2_vl.Qwen2VLForConditionalGeneration):
    """vLLM's Qwen2-VL with a fraction of the visual tokens."""

    architecture = ServedQwenVL()


@MULTIMODAL_REGISTRY.register_processor(
    _Processor25, info=qwen2_5_vl.Qwen2_5_VLProcessingInfo, dummy_inputs=qwen2_5_vl.Qwen2_5_VLDummyInputsBuilder
)
class FoveateQwen2_5_VLForConditionalGeneration(PositionedModel, qwen2_5_vl.Qwen2_5_VLForConditionalGeneration):  # noqa: N801
    """vLLM's Qwen2.5-VL with a fraction of the visual tokens."""

    architecture = ServedQwenVL()


class _WithStamps(qwen3_vl.Qwen3VLForConditionalGeneration):
    """Returns a video's features with those of its time stamps between them."""

    def stamps(self, item: Mapping[str, Any]) -> list[list[int]]:
        """The token ids before each frame of a video, as vLLM writes them, without the marker of its start."""
        times = torch.as_tensor(item["timestamps"], dtype=torch.float64).flatten().tolist()
        return [self._tokenizer.encode(f"<{time:.1f} seconds>", add_special_tokens=False) for time in times]

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """See vLLM."""
        every = kwargs.pop(FRAMES, None)
        found = super().embed_multimodal(**kwargs)
        if every is None or found is None:
            return found
        grids = ServedQwen3VL().grids(self.config, "video", kwargs)
        return tuple(self._between(rows, grid, stamps) for rows, grid, stamps in zip(found, grids, every, strict=True))

    def _between(self, rows: Tensor, grid: tuple[int, int, int], stamps: Sequence[Sequence[int]]) -> Tensor:
        start, end = self.config.vision_start_token_id, self.config.vision_end_token_id
        content, length = _content(grid, stamps)
        ids = torch.tensor([token for stamp in stamps for token in (*stamp, start, end)], dtype=torch.long)
        text = torch.ones(length, dtype=torch.bool).index_fill_(0, content, False).nonzero().squeeze(1)
        embedded = self.get_language_model().embed_input_ids(upload(ids, rows.device)).to(rows.dtype)
        whole = rows.new_zeros(length, rows.shape[1]).index_copy_(0, upload(content, rows.device), rows)
        return whole.index_copy_(0, upload(text, rows.device), nn.functional.pad(embedded, (0, rows.shape[1] - embedded.shape[1])))


@MULTIMODAL_REGISTRY.register_processor(_Processor3, info=qwen3_vl.Qwen3VLProcessingInfo, dummy_inputs=qwen3_vl.Qwen3VLDummyInputsBuilder)
class FoveateQwen3VLForConditionalGeneration(PositionedModel, _WithStamps):
    """vLLM's Qwen3-VL with a fraction of the visual tokens."""

    architecture = ServedQwen3VL()

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        """The rows of each item that enter the language model."""
        if kind_of(kwargs) == "video":
            kwargs[FRAMES] = [self.stamps({"timestamps": times}) for times in kwargs["timestamps"]]
        return super().embed_multimodal(**kwargs)


def _content(grid: tuple[int, int, int], stamps: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
    """Which of the tokens of a video with time stamps are visual, and how many there are."""
    places, start = [], 0
    for stamp in stamps:
        start += len(stamp) + 1
        places.append(torch.arange(start, start + grid[1] * grid[2]))
        start += grid[1] * grid[2] + 1
    return torch.cat(places), start


def _patches(kind: MediaKind, kwargs: Mapping[str, Any]) -> list[list[int]]:
    """(t, h, w) in patches of each item; an item by itself has no axis for items."""
    return [list(map(int, grid)) for grid in torch.as_tensor(kwargs[f"{kind}_grid_thw"]).reshape(-1, 3).tolist()]


def _time_step(config: Any, kind: MediaKind, item: Mapping[str, Any]) -> float:
    """Positions from one frame to the next."""
    seconds = item.get("second_per_grid_ts")
    if kind == "image":
        return 1.0
    rate = getattr(config.vision_config, "tokens_per_second", 1.0)
    return float(rate if seconds is None else rate * torch.as_tensor(seconds).item())
