"""Tiny random models of every family with crops, rows or frames, and inputs as their processors would make them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES

IMAGE, VIDEO, PAD, VOCABULARY = 90, 91, 0, 96
START, END, NEWLINE, MARK, WHOLE = 80, 81, 82, 83, 84

Grid = tuple[int, int, int]


@dataclass(frozen=True)
class Piece:
    """One image or video: its ids in the prompt, which of them are content, and its tensors."""

    ids: tuple[int, ...]
    content: tuple[int, ...]
    parts: tuple[Grid, ...]
    tensors: dict[str, Tensor]
    kind: str = "image"


def together(rows: Sequence[Sequence[Piece]]) -> dict[str, Tensor]:
    """All pieces' tensors, one after the other."""
    pieces = [piece for row in rows for piece in row]
    names = dict.fromkeys(name for piece in pieces for name in piece.tensors)
    return {name: torch.cat([piece.tensors[name] for piece in pieces if name in piece.tensors]) for name in names}


def padded(*names: str) -> Callable[[Sequence[Sequence[Piece]]], dict[str, Tensor]]:
    """As `together`, where tensors of the given names may differ in size and are padded with zeros."""

    def join(rows: Sequence[Sequence[Piece]]) -> dict[str, Tensor]:
        pieces = [piece for row in rows for piece in row]
        widest = {}
        for name in names:
            shapes = [piece.tensors[name].shape for piece in pieces if name in piece.tensors]
            widest[name] = [max(sizes) for sizes in zip(*shapes, strict=True)] if shapes else []

        def grown(name: str, tensor: Tensor) -> Tensor:
            if name not in names:
                return tensor
            room = torch.zeros(tensor.shape[0], *widest[name][1:])
            room[tuple(slice(0, size) for size in tensor.shape)] = tensor
            return room

        wide = [[Piece((), (), (), {name: grown(name, tensor) for name, tensor in piece.tensors.items()}) for piece in row] for row in rows]
        return together(wide)

    return join


@dataclass(frozen=True)
class Case:
    """One row of the matrix: a family's model, and its images and videos by seed."""

    family: str
    model_type: str
    build: Callable[[], Any]
    image: Callable[[int], Piece]
    video: Callable[[int], Piece] | None = None
    join: Callable[[Sequence[Sequence[Piece]]], dict[str, Tensor]] = together
    typed: bool = False
    """Whether the model is given token types, from which it makes its rotary positions."""
    several: Callable[[int], Piece] | None = None
    """Images where a row has more than one, if they are shown otherwise then."""
    variant: str = ""
    """What distinguishes the model from another of the same type."""
    brief: bool = False
    """Whether one row of the matrix is enough, because the rest is that of another model."""

    def __str__(self) -> str:
        return f"{self.model_type} {self.variant}".strip()


OWN = {"llava_llama"}
"""Model types that foveate brings itself."""


def known(model_type: str) -> bool:
    """Whether there is such a model, which the installed transformers decides for all but our own."""
    return model_type in OWN or (model_type in CLASSES and model_type in CONFIG_MAPPING)


def text(kind: str = "llama", **options: Any) -> Any:
    """A small decoder's configuration."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": None}
    return CONFIG_MAPPING[kind](**{**sizes, **tokens, "max_position_embeddings": 2048, "head_dim": 8, **options})


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def tower(kind: str, **options: Any) -> Any:
    """A small vision tower's configuration."""
    return CONFIG_MAPPING[kind](**{**TOWER, **options})


def own_tower(model_type: str, **options: Any) -> Any:
    """As `tower`, of the kind that a model type has for itself; older transformers do not register all of them."""
    return CONFIG_MAPPING[model_type].sub_configs["vision_config"](**{**TOWER, **options})


def clip(side: int = 4, patch: int = 7) -> Any:
    return tower("clip_vision_model", image_size=patch * side, patch_size=patch)


def siglip(side: int = 4, patch: int = 7) -> Any:
    return tower("siglip_vision_model", image_size=patch * side, patch_size=patch, vision_use_head=False)


def pixtral(patch: int) -> Any:
    return tower("pixtral", image_size=32, patch_size=patch, head_dim=8)


def model_of(model_type: str, *, sdpa: bool = True, **options: Any) -> Any:
    """A random model, see `randomised`."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**options)
    if sdpa:
        config._attn_implementation = "sdpa"
    return randomised(getattr(transformers, CLASSES[model_type])(config))


def randomised(model: Any) -> Any:
    """A model ready to run, with weights under which attention is far from uniform."""
    model.eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.4 * parameter[0].numel() ** -0.5)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [START, END, NEWLINE, MARK, WHOLE, IMAGE, VIDEO]
    return model


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(100 + seed))


def plain(tokens: int, grid: Grid, tensors: dict[str, Tensor], *, before: Sequence[int] = (), after: Sequence[int] = ()) -> Piece:
    """An image whose placeholders are all content, between markers."""
    first = len(before)
    return Piece((*before, *[IMAGE] * tokens, *after), tuple(range(first, first + tokens)), (grid,), tensors)


# LLaVA-1.5: a square of patches.


def llava(vision: Any = None, **options: Any) -> Any:
    return model_of("llava", vision_config=vision or clip(), text_config=text(), image_token_index=IMAGE, **options)


def square_image(seed: int) -> Piece:
    return plain(16, (1, 4, 4), {"pixel_values": noise(seed, 1, 3, 28, 28)})


# LLaVA-NeXT and similar models. (height, width) of the picture -> (rows, columns) of tiles, then of what remains of them.

PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
NEXT_SIZES = (((50, 50), (2, 2), (8, 8)), ((20, 60), (1, 3), (4, 12)), ((40, 24), (2, 1), (6, 4)), ((30, 50), (2, 2), (4, 8)))


def tiled(seed: int, side: int, pixels: int, size: tuple[int, int], tiles: tuple[int, int], kept: tuple[int, int]) -> Piece:
    rows, columns = kept
    whole = tuple(range(side**2))
    rest = tuple(side**2 + row * (columns + 1) + column for row in range(rows) for column in range(columns))
    crops = 1 + math.prod(tiles)
    tensors = {"pixel_values": noise(seed, 1, crops, 3, pixels, pixels), "image_sizes": torch.tensor([size])}
    return Piece((IMAGE,) * (side**2 + rows * (columns + 1)), whole + rest, ((1, side, side), (1, rows, columns)), tensors)


def next_image(seed: int) -> Piece:
    return tiled(seed, 4, 28, *NEXT_SIZES[seed % len(NEXT_SIZES)])


def frames(seed: int, count: int, side: int, pixels: int, *, newline: bool) -> Piece:
    tokens = count * side**2
    ids = (VIDEO,) * (tokens + newline)
    return Piece(
        ids, tuple(range(tokens)), ((count, side, side),), {"pixel_values_videos": noise(seed, 1, count, 3, pixels, pixels)}, "video"
    )


def llava_next(decoder: str = "llama", **options: Any) -> Any:
    shown = {"vision_config": clip(), "image_token_index": IMAGE, "image_grid_pinpoints": PINPOINTS}
    return model_of("llava_next", text_config=text(decoder, **options), **shown)


def llava_next_video() -> Any:
    tokens = {"image_token_index": IMAGE, "video_token_index": VIDEO}
    return model_of("llava_next_video", vision_config=clip(), text_config=text(), image_grid_pinpoints=PINPOINTS, **tokens)


# At most two times the whole picture's 25 patches, so that the larger ones are scaled down.
OV_PINPOINTS = [[35 * rows, 35 * columns] for rows in range(1, 4) for columns in range(1, 4)]
OV_SIZES = (((60, 60), (2, 2), (7, 7)), ((30, 90), (1, 3), (4, 12)), ((35, 35), (1, 1), (5, 5)), ((100, 100), (3, 3), (7, 7)))


def onevision() -> Any:
    tokens = {"image_token_index": IMAGE, "video_token_index": VIDEO}
    scaled = {"image_grid_pinpoints": OV_PINPOINTS, "vision_aspect_ratio": "anyres_max_2"}
    return model_of("llava_onevision", vision_config=siglip(5), text_config=text("qwen2"), **tokens, **scaled)


def onevision_image(seed: int) -> Piece:
    return tiled(seed, 5, 35, *OV_SIZES[seed % len(OV_SIZES)])


def onevision_join(rows: Sequence[Sequence[Piece]]) -> dict[str, Tensor]:
    tensors = padded("pixel_values")(rows)
    counts = [sum(piece.kind == "image" for piece in row) for row in rows]
    return {**tensors, "batch_num_images": torch.tensor([n for n in counts if n])} if any(counts) else tensors


def onevision_square(seed: int) -> Piece:
    """How OneVision shows each of several images: as a square, followed by one newline."""
    tensors = {"pixel_values": noise(seed, 1, 1, 3, 35, 35), "image_sizes": torch.tensor([[30, 90]])}
    return Piece((IMAGE,) * 26, tuple(range(25)), ((1, 5, 5),), tensors)


# InternVL and similar models: consecutive crops between a start and an end token.


def internvl(model_type: str, decoder: str) -> Any:
    vision = tower(f"{model_type}_vision", image_size=(32, 32), patch_size=(4, 4))
    return model_of(model_type, vision_config=vision, text_config=text(decoder), image_token_id=IMAGE, image_seq_length=16)


def internvl_image(seed: int) -> Piece:
    crops = 1 + seed % 3
    content = tuple(range(1, 1 + 16 * crops))
    return Piece((START, *[IMAGE] * 16 * crops, END), content, ((1, 4, 4),) * crops, {"pixel_values": noise(seed, crops, 3, 32, 32)})


# Idefics3 and SmolVLM: <fake> marker crop, with row ends, the whole picture last.


def idefics3(model_type: str) -> Any:
    vision = tower(f"{model_type}_vision", image_size=32, patch_size=4)
    return model_of(model_type, vision_config=vision, text_config=text(), image_token_id=IMAGE, scale_factor=2)


def idefics3_image(seed: int) -> Piece:
    rows, columns = ((0, 0), (1, 2), (2, 1), (0, 0))[seed % 4]
    ids: list[int] = []
    for row in range(rows):
        for column in range(columns):
            ids += [START, MARK, 60 + row, 70 + column, *[IMAGE] * 16]
        ids.append(NEWLINE)
    ids += [*[NEWLINE] * bool(rows), START, WHOLE, *[IMAGE] * 16, START]
    content = tuple(place for place, token in enumerate(ids) if token == IMAGE)
    crops = rows * columns + 1
    return Piece(tuple(ids), content, ((1, 4, 4),) * crops, {"pixel_values": noise(seed, crops, 3, 32, 32)})


def idefics3_join(rows: Sequence[Sequence[Piece]]) -> dict[str, Tensor]:
    most = max(sum(len(piece.parts) for piece in row) for row in rows)
    pixels = torch.zeros(len(rows), most, 3, 32, 32)
    for row, pieces in enumerate(rows):
        if pieces:
            crops = torch.cat([piece.tensors["pixel_values"] for piece in pieces])
            pixels[row, : len(crops)] = crops
    return {"pixel_values": pixels} if most else {}


# Pixtral towers: rows of patches, each followed by a break.


def rows_image(seed: int) -> Piece:
    rows, columns = ((3, 4), (2, 3), (4, 1), (1, 4))[seed % 4]
    ids = [token for row in range(rows) for token in [*[IMAGE] * columns, NEWLINE]]
    ids[-1] = END
    content = tuple(place for place, token in enumerate(ids) if token == IMAGE)
    size = (8 * rows, 8 * columns)
    return Piece(
        tuple(ids), content, ((1, rows, columns),), {"pixel_values": noise(seed, 1, 3, *size), "image_sizes": torch.tensor([size])}
    )


def mistral3() -> Any:
    decoder = text("mistral", sliding_window=None)
    return model_of("mistral3", vision_config=pixtral(4), text_config=decoder, image_token_index=IMAGE, spatial_merge_size=2)


def lighton_ocr() -> Any:
    return model_of("lighton_ocr", vision_config=pixtral(4), text_config=text("qwen3"), image_token_id=IMAGE, spatial_merge_size=2)


def llava_pixtral() -> Any:
    features = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    decoder = text("mistral", sliding_window=None)
    return model_of("llava", vision_config=pixtral(8), text_config=decoder, image_token_index=IMAGE, **features)


def mistral_next() -> Any:
    return llava_next("mistral", sliding_window=None)


CASES = [
    Case("llava", "llava", llava_pixtral, rows_image, join=padded("pixel_values"), variant="pixtral"),
    Case("llava", "llava", llava, square_image, brief=True),
    Case("llava-next", "llava_next", llava_next, next_image, join=padded("pixel_values")),
    Case("llava-next", "llava_next", mistral_next, next_image, join=padded("pixel_values"), variant="mistral", brief=True),
    Case("llava-next", "llava_next", lambda: llava_next("qwen2"), next_image, join=padded("pixel_values"), variant="qwen2", brief=True),
    Case(
        "llava-next-video",
        "llava_next_video",
        llava_next_video,
        next_image,
        lambda seed: frames(seed, 3, 2, 28, newline=False),
        padded("pixel_values"),
    ),
    Case(
        "llava-onevision",
        "llava_onevision",
        onevision,
        onevision_image,
        lambda seed: frames(seed, 3, 3, 35, newline=True),
        onevision_join,
        several=onevision_square,
    ),
    Case("internvl", "internvl", lambda: internvl("internvl", "qwen2"), internvl_image),
    Case("internvl", "qianfan_ocr", lambda: internvl("qianfan_ocr", "qwen3"), internvl_image),
    Case("idefics3", "idefics3", lambda: idefics3("idefics3"), idefics3_image, join=idefics3_join),
    Case("idefics3", "smolvlm", lambda: idefics3("smolvlm"), idefics3_image, join=idefics3_join),
    Case("mistral3", "mistral3", mistral3, rows_image, join=padded("pixel_values")),
    Case("mistral3", "lighton_ocr", lighton_ocr, rows_image, join=padded("pixel_values")),
]
