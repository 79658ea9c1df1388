"""Tiny random LLaVA-NeXT and LLaVA-OneVision in folders, with their processors, as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision_here import make_importable
from words import word_tokenizer

_LIBRARY = make_importable()

import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>"]
WORDS = [*SPECIAL, *(f"w{number}" for number in range(90))]
PAD, IMAGE, VIDEO = 0, 4, 5
NEXT_PINPOINTS = [[28, 56], [56, 28], [56, 56], [84, 28], [28, 84]]
ONEVISION_PINPOINTS = [[35 * rows, 35 * columns] for rows in range(1, 5) for columns in range(1, 5)]
"""Up to sixteen tiles, so that large pictures are scaled down to nine times the whole picture's patches."""


def save_next(folder: Path) -> Path:
    """A LLaVA-NeXT with CLIP's tower of 4 x 4 patches and a Mistral decoder, whose weights have the names of older checkpoints."""
    config = CONFIG_MAPPING["llava_next"](
        vision_config=_tower("clip_vision_model", 28),
        text_config=_decoder("mistral", sliding_window=None),
        image_token_index=IMAGE,
        image_grid_pinpoints=NEXT_PINPOINTS,
    )
    _save(transformers.LlavaNextForConditionalGeneration, config, folder)
    _wrap_tower(folder / "model.safetensors")
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=NEXT_PINPOINTS
    )
    options = {"patch_size": 7, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    transformers.LlavaNextProcessor(images, _tokenizer(), **options).save_pretrained(folder)
    return folder


def save_onevision(folder: Path) -> Path:
    """A LLaVA-OneVision with SigLIP's tower of 5 x 5 patches and a Qwen2 decoder."""
    config = CONFIG_MAPPING["llava_onevision"](
        vision_config=_tower("siglip_vision_model", 35, vision_use_head=False),
        text_config=_decoder("qwen2"),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=ONEVISION_PINPOINTS,
    )
    _save(transformers.LlavaOnevisionForConditionalGeneration, config, folder)
    size = {"height": 35, "width": 35}
    images = transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=ONEVISION_PINPOINTS)
    videos = transformers.LlavaOnevisionVideoProcessor(size=size)
    options = {"num_image_tokens": 25, "vision_feature_select_strategy": "full"}
    transformers.LlavaOnevisionProcessor(images, _tokenizer(), videos, **options).save_pretrained(folder)
    return folder


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Noise."""
    return Image.fromarray(frames(1, height, width, seed)[0])


def frames(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """A video of noise (count, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def _tower(kind: str, pixels: int, **options: Any) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    return CONFIG_MAPPING[kind](**sizes, image_size=pixels, patch_size=7, **options)


def _decoder(kind: str, **options: Any) -> Any:
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2}
    tokens = {"vocab_size": len(WORDS), "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": None}
    return CONFIG_MAPPING[kind](**sizes, **tokens, max_position_embeddings=2048, tie_word_embeddings=False, **options)


def _tokenizer() -> Any:
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=False))
    return word_tokenizer(WORDS, additional_special_tokens=["<image>", "<video>"], **names)


def _save(kind: Any, config: Any, folder: Path) -> None:
    """With weights under which attention is far from uniform."""
    torch.manual_seed(0)
    model = kind(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.4 * parameter[0].numel() ** -0.5)
    model.generation_config.eos_token_id = None
    model.to(torch.float32).save_pretrained(folder)


def _wrap_tower(file: Path) -> None:
    """Give the tower the wrapper `vision_model` that published checkpoints have."""
    weights = {name.replace("vision_tower.vision_model.", "vision_tower."): value for name, value in load_file(file).items()}
    save_file(
        {name.replace("vision_tower.", "vision_tower.vision_model."): value for name, value in weights.items()}, file, {"format": "pt"}
    )
