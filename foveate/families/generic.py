"""Models that need no code of their own: placeholders with one token id, a decoder like Llama's, and features per image.

Each entry of `ENTRIES` is a family, named like its `model_type`. The tests hold a tiny model of every entry to "pruning equals masking";
a class without such a test is refused (see `foveate.families.refused`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from foveate.errors import InputError, UnsupportedError
from foveate.families.base import Family, register
from foveate.families.kit.features import argument, check_encoded
from foveate.families.kit.layout import Encoding, ImageTokens, Layout, place
from foveate.families.kit.processors import (
    SQUARE,
    centred,
    check_resizing,
    entries,
    from_its_module,
    known_processor,
    tiled_canvas,
    tiles,
    whole_picture,
)
from foveate.families.kit.regions import Box, ProcessedImage, RegionRequest, Regions
from foveate.families.kit.runs import crops_per_run, whole_runs
from foveate.view import Grid

__all__ = ["ENTRIES", "Entry", "Generic"]

LayoutRule = Callable[[Any, Tensor, Encoding], list[Layout]]
"""Maps the model's configuration, input_ids (b, s) and one call of its encoder to one layout per image."""


def squares(config: Any, input_ids: Tensor, seen: Encoding) -> list[Layout]:
    """Every image is a square of patches."""
    return [Layout((_square(length),)) for length in seen.lengths]


def crops(config: Any, input_ids: Tensor, seen: Encoding) -> list[Layout]:
    """Square crops, one directly after the other; an unbroken run of placeholders is an image."""
    found = crops_per_run(input_ids, config.image_token_id, _square(seen.lengths[0]))
    check_encoded(sum(layout.placeholders for layout in found), [seen])
    return found


def queries(config: Any, input_ids: Tensor, seen: Encoding) -> list[Layout]:
    """Learned queries, which have no place in the image; an unbroken run of placeholders is an image."""
    found = crops_per_run(input_ids, config.image_token_id, (1, 1, seen.lengths[0]))
    check_encoded(sum(layout.placeholders for layout in found), [seen])
    return found


def bracketed(config: Any, input_ids: Tensor, seen: Encoding) -> list[Layout]:
    """Square crops with indicator tokens between them; each image begins with the first indicator and ends with the last."""
    first, last = config.visual_indicator_token_ids[0], config.visual_indicator_token_ids[-1]
    crop = _square(seen.lengths[0])
    size, found = crop[1] * crop[2], []
    for row, ids in enumerate(input_ids):
        crops_here = whole_runs(ids, config.image_token_id, size, row)
        opened = (ids == first).nonzero().flatten().tolist()
        closed = (ids == last).nonzero().flatten().tolist()
        if len(opened) != len(closed):
            raise InputError(f"row {row} has {len(opened)} image starts ({first}) and {len(closed)} image ends ({last}); keep images whole")
        inside = [
            sum(length // size for start, length in crops_here if begin < start < end) for begin, end in zip(opened, closed, strict=True)
        ]
        found += [Layout((crop,) * count) for count in inside if count]
    check_encoded(sum(layout.placeholders for layout in found), [seen])
    return found


def merged(config: Any, input_ids: Tensor, seen: Encoding) -> list[Layout]:
    """A grid of patches of any size; each square block of patches becomes one token."""
    vision = config.vision_config
    block = vision.merge_kernel_size if hasattr(vision, "merge_kernel_size") else [vision.spatial_merge_size] * 2
    grids = argument(seen, "image_grid_thw").tolist()
    return [Layout(((1, high // block[0], wide // block[1]),)) for _, high, wide in grids]


def merged_each(config: Any, input_ids: Tensor, seen: Encoding) -> list[Layout]:
    """Like `merged`, with a block size per image."""
    blocks = argument(seen, "image_merge_sizes").tolist()
    grids = argument(seen, "image_grid_thw").tolist()
    return [Layout(((1, high // block, wide // block),)) for block, (_, high, wide) in zip(blocks, grids, strict=True)]


RegionRule = Callable[[RegionRequest], Regions]
"""Maps a request to the regions of an image, given what the model's own processors do to a picture; see `Family.regions`."""


def nowhere(request: RegionRequest) -> Regions:
    """Refuses: learned queries have no place in the picture."""
    raise UnsupportedError("its visual tokens are learned queries, each of which looks at the whole picture")


def whole(*processors: str) -> RegionRule:
    """The picture from edge to edge, by one of these processor classes."""
    return lambda request: whole_picture(request, *processors)


def cut_square(*processors: str) -> RegionRule:
    """One picture of fixed size, as the settings say, by one of these processor classes."""

    def rule(request: RegionRequest) -> Regions:
        known_processor(request.settings, *processors)
        return (centred(request).region(request, request.only, request.config.vision_config.patch_size),)

    return rule


def bordered(*processors: str) -> RegionRule:
    """The longer side is resized, the shorter one in proportion but not below a minimum; then borders make the picture square."""

    def rule(request: RegionRequest) -> Regions:
        settings = request.settings
        known_processor(settings, *processors)
        check_resizing(settings)
        if not settings.do_pad:
            raise UnsupportedError(f"{type(settings).__name__} has do_pad=False; where tokens lie is known for pictures with borders only")
        # With two towers, the picture is first resized for the larger one, and that result for the other.
        first = entries(getattr(settings, "high_res_size", None) or settings.size)["height"]
        width, height = request.size
        made = [max(round(side * first / max(request.size)), settings.min_size) for side in request.size]
        left, top = ((max(made) - side) // 2 for side in made)
        across, down = width / made[0], height / made[1]
        box = Box(-left * across, -top * down, (max(made) - left) * across, (max(made) - top) * down)
        last = entries(settings.size)["height"]
        return (ProcessedImage(box, (last, last)).region(request, request.only, request.config.vision_config.patch_size),)

    return rule


def filled(*processors: str) -> RegionRule:
    """Never enlarged, and filled with black to whole tokens on the right and at the bottom, by one of these processor classes."""

    def rule(request: RegionRequest) -> Regions:
        settings, (width, height) = request.settings, request.size
        known_processor(settings, *processors)
        check_resizing(settings)
        limit = entries(settings.size)["max_height"]
        resize = from_its_module(settings, "navit_resize")
        made, canvas = resize(height, width, settings.patch_size, settings.merge_size, settings.max_patches, limit)
        box = Box(0, 0, canvas[1] * width / made[1], canvas[0] * height / made[0])
        return (ProcessedImage(box, (canvas[1], canvas[0])).region(request, request.only, settings.patch_size * settings.merge_size),)

    return rule


def thumbnail_last(*processors: str) -> RegionRule:
    """Crops row by row, then the whole picture, by one of these processor classes."""

    def rule(request: RegionRequest) -> Regions:
        known_processor(request.settings, *processors)
        return tiled_canvas(request)

    return rule


def thumbnail_first(request: RegionRequest) -> Regions:
    """Ovis 2's: the whole picture, then crops row by row; its processor makes rows where one would expect columns."""
    settings = request.settings
    known_processor(settings, "Ovis2ImageProcessor")
    check_resizing(settings)
    size, (width, height) = entries(settings.size), request.size
    arrangement = (1, 1)
    if len(request.parts) > 1 and settings.use_covering_area_grid:
        across, down = from_its_module(settings, "get_min_tile_covering_grid")((height, width), size["height"], settings.max_patches)
        arrangement = (down, across)
    elif len(request.parts) > 1:
        arrange = from_its_module(settings, "get_optimal_tiled_canvas")
        across, down = arrange((height, width), (size["height"], size["width"]), settings.min_patches, settings.max_patches)
        arrangement = (down, across)
    vision = request.config.vision_config
    return tiles(request, arrangement, "first", (size["width"], size["height"]), vision.patch_size * vision.hidden_stride)


@dataclass(frozen=True)
class Entry:
    """One model type of the generic path.

    Args:
        model_type: as in the model's configuration.
        layout: how an image's tokens lie in the prompt.
        regions: where they lie in the picture.
        summary: one line for lists.
        checkpoints: published checkpoints of this class, as hub ids.
    """

    model_type: str
    layout: LayoutRule
    regions: RegionRule
    summary: str
    checkpoints: tuple[str, ...] = ()


class Generic(Family):
    """A model type that needs no code of its own.

    Args:
        entry: its line of `ENTRIES`.
    """

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.name, self.summary, self.model_types = entry.model_type, entry.summary, (entry.model_type,)

    def check(self, model: nn.Module) -> None:
        """Checks nothing: the decoder is checked for every family alike."""

    def placeholders(self, model: nn.Module) -> dict[Any, int]:
        """Images only."""
        config: Any = model.config
        return {"image": config.image_token_id}

    def images(self, model: nn.Module, input_ids: Tensor, seen: Sequence[Encoding]) -> list[list[ImageTokens]]:
        """See `Family.images`."""
        if any(call.kind == "video" for call in seen):
            raise UnsupportedError(f"video is not supported for {self.name} so far; pass images, or remove the handle for this prompt")
        found = [layout for call in seen for layout in self.entry.layout(model.config, input_ids, call)]
        return place(input_ids, self.placeholders(model), {"image": found})

    def regions(self, request: RegionRequest) -> Regions:
        """See `Family.regions`."""
        return self.entry.regions(request)


def _square(tokens: int) -> Grid:
    side = math.isqrt(tokens)
    return (1, side, side) if side**2 == tokens else (1, 1, tokens)


_GLM = whole("Glm4vImageProcessor", "Glm46VImageProcessor")

ENTRIES = (
    Entry("aria", queries, nowhere, "Aria: learned queries, a mixture-of-experts decoder", ("rhymes-ai/Aria",)),
    Entry("cosmos3_edge", merged, whole("Cosmos3EdgeImageProcessor"), "Cosmos 3 Edge, images only", ("nvidia/Cosmos3-Edge",)),
    Entry("deepseek_vl", squares, bordered("DeepseekVLImageProcessor"), "DeepSeek-VL", ("deepseek-community/deepseek-vl-1.3b-chat",)),
    Entry(
        "deepseek_vl_hybrid",
        squares,
        bordered("DeepseekVLHybridImageProcessor"),
        "DeepSeek-VL with a second, high-resolution tower",
        ("deepseek-community/deepseek-vl-7b-chat",),
    ),
    Entry("glm46v", merged, whole("Glm46VImageProcessor"), "GLM-4.6V, images only"),
    Entry("glm4v", merged, _GLM, "GLM-4.1V, images only", ("zai-org/GLM-4.1V-9B-Thinking",)),
    Entry("glm4v_moe", merged, _GLM, "GLM-4.5V, a mixture of experts, images only", ("zai-org/GLM-4.5V",)),
    Entry("glm_ocr", merged, _GLM, "GLM-OCR, images only", ("zai-org/GLM-OCR",)),
    Entry("glmga", merged, whole("GlmgaImageProcessor"), "GLM-4.6V's class under the name glmga, images only"),
    Entry("got_ocr2", crops, thumbnail_last("GotOcr2ImageProcessor"), "GOT-OCR 2.0", ("stepfun-ai/GOT-OCR-2.0-hf",)),
    Entry(
        "hyperclovax_vision_v2",
        merged,
        whole("Qwen2VLImageProcessor"),
        "HyperCLOVA X SEED, images only",
        ("naver-hyperclovax/HyperCLOVAX-SEED-Think-32B",),
    ),
    Entry(
        "janus", squares, bordered("JanusImageProcessor"), "Janus and Janus-Pro, understanding only", ("deepseek-community/Janus-Pro-1B",)
    ),
    Entry(
        "kimi_k25",
        merged,
        filled("Kimi_K25ImageProcessor"),
        "Kimi K2.5 and K2.6, latent attention and a mixture of experts, images only",
        ("moonshotai/Kimi-K2.6",),
    ),
    Entry("ovis2", bracketed, thumbnail_first, "Ovis 2: crops between indicator tokens", ("thisisiron/Ovis2-1B-hf",)),
    Entry("paddleocr_vl", merged, whole("PaddleOCRVLImageProcessor"), "PaddleOCR-VL", ("PaddlePaddle/PaddleOCR-VL",)),
    Entry(
        "pp_chart2table",
        crops,
        thumbnail_last("PPChart2TableImageProcessor"),
        "PP-Chart2Table",
        ("PaddlePaddle/PP-Chart2Table_safetensors",),
    ),
    Entry("video_llama_3", merged_each, whole("VideoLlama3ImageProcessor"), "VideoLLaMA 3, images only", ("lkhl/VideoLLaMA3-2B-Image-HF",)),
    Entry("video_llava", squares, cut_square("VideoLlavaImageProcessor"), "Video-LLaVA, images only", ("LanguageBind/Video-LLaVA-7B-hf",)),
    Entry("vipllava", squares, cut_square(*SQUARE), "ViP-LLaVA", ("llava-hf/vip-llava-7b-hf",)),
)

for _entry in ENTRIES:
    register(Generic(_entry))
