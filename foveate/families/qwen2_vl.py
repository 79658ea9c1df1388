"""Qwen2-VL and Qwen2.5-VL: any resolution, 2x2 patches per token, rotary positions in time, row and column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foveate.devices import upload
from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS, Family, register
from foveate.families.kit.features import argument
from foveate.families.kit.layout import Encoding, ImageTokens, Layout, place
from foveate.families.kit.processors import whole_picture
from foveate.families.kit.regions import RegionRequest, Regions

__all__ = ["Qwen2VL", "window_order"]

_PROCESSORS = ("Qwen2VLImageProcessor", "Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor")


class Qwen2VL(Family):
    """`Qwen2VLForConditionalGeneration` and `Qwen2_5_VLForConditionalGeneration` in any size.

    Published checkpoints: Qwen/Qwen2-VL-2B-Instruct, -7B-Instruct, -72B-Instruct; Qwen/Qwen2.5-VL-3B-Instruct, -7B-Instruct, ...
    """

    name = "qwen2-vl"
    summary = "Qwen2-VL and Qwen2.5-VL: any resolution, 2x2 patches per token, video, multimodal rotary positions"
    model_types = ("qwen2_vl", "qwen2_5_vl")
    takes = frozenset({"image", "several images", "video"})
    signals = DECODER_SIGNALS | TOWER_SIGNALS

    def check(self, model: nn.Module) -> None:
        """Checks nothing: every variant works. Decoders with sliding windows are refused for all families alike."""

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; grids come with the pixels, in patches."""
        layouts = {encoding.kind: [Layout((grid,)) for grid in self.grids(model, encoding)] for encoding in seen}
        return place(input_ids, self.placeholders(model), layouts)

    def regions(self, request: RegionRequest) -> Regions:
        """The whole picture or frame: it is resized to whole tokens."""
        return whole_picture(request, *_PROCESSORS)

    def tower(self, model: nn.Module) -> nn.Module:
        """See `Family.tower`."""
        return self.backbone(model).visual  # type: ignore[return-value]

    def tower_attention(self, model: nn.Module) -> nn.Module:
        """The last block's; if blocks use windows, that of the last block that sees the whole frame."""
        tower: Any = self.tower(model)
        whole = getattr(tower, "fullatt_block_indexes", None)
        return tower.blocks[max(whole) if whole else -1].attn  # type: ignore[no-any-return]

    def projector(self, model: nn.Module) -> nn.Module:
        """The merger, whose input has one row per patch."""
        return self.tower(model).merger  # type: ignore[return-value]

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """The patches of one token are adjacent: their attention is averaged, their states are concatenated."""
        merged = _merge_size(model) ** 2
        values = values.unflatten(0, (-1, merged))
        grids = self.grids(model, seen)
        order = self.order(model, grids)
        if order is not None:
            values = values[upload(order, values.device)]
        values = values.mean(1) if signal == "tower_attention" else values.flatten(1)
        return list(values.split([math.prod(grid) for grid in grids]))

    def grids(self, model: nn.Module, encoding: Encoding) -> list[tuple[int, int, int]]:
        """(t, h, w) in tokens of every image or video that was encoded.

        Raises:
            InputError: the features were computed before there was a handle to see the grids.
        """
        side = _merge_size(model)
        return [(t, h // side, w // side) for t, h, w in argument(encoding, f"{encoding.kind}_grid_thw").tolist()]

    def order(self, model: nn.Module, grids: Sequence[tuple[int, int, int]]) -> Tensor | None:
        """The position of each token in the tower (n,), over all grids, if windows reorder them; otherwise `None`."""
        tower: Any = self.tower(model)
        if getattr(tower, "fullatt_block_indexes", None) is None or not hasattr(tower, "window_size"):
            return None
        return window_order(grids, tower.window_size // _merge_size(model) // tower.patch_size)


def window_order(grids: Sequence[tuple[int, int, int]], side: int) -> Tensor:
    """The position (n,) of each token among those of all grids in a tower that goes through them window by window.

    Args:
        grids: (t, h, w) in tokens.
        side: of a window, in tokens.
    """
    start, places = 0, []
    for t, h, w in grids:
        time, row, column = torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij")
        window = (time * -(-h // side) + row // side) * -(-w // side) + column // side
        # Within a window, tokens stay in row-major order, which a stable sort by window preserves.
        places.append(window.flatten().argsort(stable=True) + start)
        start += t * h * w
    return torch.cat(places).argsort()


def _merge_size(model: nn.Module) -> int:
    config: Any = model.config
    size: int = config.vision_config.spatial_merge_size
    return size


register(Qwen2VL())
