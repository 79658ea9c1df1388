"""Idefics3 and SmolVLM: crops between text markers, the whole picture last, pixel shuffle in the connector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS, Family, register
from foveate.families.kit.features import blocks, check_encoded
from foveate.families.kit.layout import Encoding, ImageTokens
from foveate.families.kit.processors import check_resizing, entries, known_processor, tiles
from foveate.families.kit.regions import RegionRequest, Regions
from foveate.families.kit.runs import whole_runs

__all__ = ["Idefics3"]


class Idefics3(Family):
    """`Idefics3ForConditionalGeneration` and `SmolVLMForConditionalGeneration` (HuggingFaceTB/SmolVLM2-2.2B-Instruct, ...)."""

    name = "idefics3"
    summary = "Idefics3 and SmolVLM: crops between markers and the whole picture, pixel shuffle; video as marked frames"
    model_types = ("idefics3", "smolvlm")
    takes = frozenset({"image", "several images", "frames"})
    signals = DECODER_SIGNALS | TOWER_SIGNALS

    def check(self, model: nn.Module) -> None:
        """Checks nothing: every variant works."""

    def decoder(self, model: nn.Module) -> nn.Module:
        """See `Family.decoder`; here it is named text_model."""
        return self.backbone(model).text_model  # type: ignore[return-value]

    def tower(self, model: nn.Module) -> nn.Module:
        """See `Family.tower`."""
        return self.backbone(model).vision_model  # type: ignore[return-value]

    def projector(self, model: nn.Module) -> nn.Module:
        """See `Family.projector`."""
        return self.backbone(model).connector  # type: ignore[return-value]

    def tower_attention(self, model: nn.Module) -> nn.Module:
        """See `Family.tower_attention`."""
        tower: Any = self.tower(model)
        return tower.encoder.layers[-1].self_attn  # type: ignore[no-any-return]

    def fold(self, model: nn.Module, signal: str, values: Tensor, seen: Encoding) -> list[Tensor]:
        """The pixel shuffle joins patches into one token: their attention is averaged, their states are concatenated."""
        config: Any = model.config
        side = crop_side(config) * config.scale_factor
        joined = blocks(values, side, side, config.scale_factor)
        return list(joined.mean(2) if signal == "tower_attention" else joined.flatten(2))

    def regions(self, request: RegionRequest) -> Regions:
        """Crops row by row, then the whole picture; an unsplit picture, or a frame, is squeezed into one crop."""
        settings = request.settings
        known_processor(settings, "Idefics3ImageProcessor", "SmolVLMImageProcessor", "SmolVLMVideoProcessor")
        check_resizing(settings)
        side = entries(settings.max_image_size)["longest_edge"]
        cell = request.config.vision_config.patch_size * request.config.scale_factor
        arrangement = (1, 1) if len(request.parts) == 1 else _split(settings, request.size)
        return tiles(request, arrangement, "last", (side, side), cell)

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`; the crops of a picture and the whole picture share one budget, and markers stay."""
        token, side = self.placeholders(model)["image"], crop_side(model.config)
        found = [_pictures(ids, token, side**2, row) for row, ids in enumerate(input_ids)]
        check_encoded(sum(len(crops) for row in found for crops in row) * side**2, seen)
        return [[_tokens(crops, side) for crops in row] for row in found]


def crop_side(config: Any) -> int:
    """Rows (and columns) of tokens in one crop."""
    vision = config.vision_config
    side: int = vision.image_size // vision.patch_size // config.scale_factor
    return side


def _split(settings: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of crops, as the processor itself computes them: it rounds more than once on the way."""
    made = settings(images=[[Image.new("RGB", size)]], do_image_splitting=True, return_row_col_info=True)
    return int(made["rows"][0][0]), int(made["cols"][0][0])


def _tokens(crops: list[int], side: int) -> ImageTokens:
    columns = torch.cat([torch.arange(start, start + side**2) for start in crops])
    parts = ((1, side, side),) * len(crops)
    return ImageTokens(columns, parts[0] if len(crops) == 1 else (1, 1, columns.numel()), "image", parts)


def _pictures(ids: Tensor, token: int, size: int, row: int) -> list[list[int]]:
    """The first columns of each picture's crops.

    A crop's marker is the text between the preceding separator and the crop. The last crop of every picture is the whole picture, which
    has a marker of its own; the separator is the token that follows it. Both are read from the last crop of the prompt, so that no
    tokenizer is needed. Without such markers, each crop is a picture.
    """
    starts: list[int] = []
    for start, length in whole_runs(ids, token, size, row):
        starts += range(start, start + length, size)
    if not starts:
        return []
    end = starts[-1] + size
    separator = int(ids[end]) if end < len(ids) else None
    markers = [_marker(ids, start, separator) for start in starts]
    pictures: list[list[int]] = [[]]
    for start, marker in zip(starts, markers, strict=True):
        pictures[-1].append(start)
        if marker is None or marker == markers[-1]:
            pictures.append([])
    return [crops for crops in pictures if crops]


def _marker(ids: Tensor, start: int, separator: int | None) -> tuple[int, ...] | None:
    before = (ids[:start] == separator).nonzero().flatten() if separator is not None else ids[:0]
    return tuple(ids[int(before[-1]) + 1 : start].tolist()) if before.numel() else None


register(Idefics3())
