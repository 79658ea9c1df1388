"""A small LLaVA in a folder, as `--model FOLDER` takes it, and what a run of the command line leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from words import SCENE, word_tokenizer

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
WORDS = [
    *SPECIAL,
    "USER",
    ":",
    "ASSISTANT",
    "?",
    *SCENE,
    "yes",
    "no",
    "one",
    "two",
]
SIDE, PATCH = 84, 14
TOKENS = (SIDE // PATCH) ** 2
CONTEXT = 256
_PROCESSOR: dict[str, Any] = {
    "patch_size": PATCH,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
    "image_token": "<image>",
}


@dataclass(frozen=True)
class Result:
    """What a run of the command line left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """stdout as JSON."""
        return json.loads(self.out)


Run = Callable[..., Result]


def _tokenizer() -> PreTrainedTokenizerFast:
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=False))
    return word_tokenizer(WORDS, additional_special_tokens=["<image>"], **names)


def _tower() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=SIDE, patch_size=PATCH
    )


def _decoder() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        vocab_size=len(WORDS),
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def save_model(folder: Path) -> None:
    """Write a random LLaVA of 36 visual tokens and 4 decoder layers, with LLaVA-1.5's kind of processor."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=_tower(),
        text_config=_decoder(),
        image_token_id=WORDS.index("<image>"),
        image_seq_length=TOKENS,
    )
    _save(LlavaForConditionalGeneration(config), folder)
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(image_processor=images, **_PROCESSOR, tokenizer=_tokenizer()).save_pretrained(folder)


def save_tiled_model(folder: Path) -> None:
    """Write a random LLaVA-NeXT: a picture of 168 x 84 pixels is shown whole and as two tiles, in 36 + 72 visual tokens and 6 newlines."""
    torch.manual_seed(0)
    pinpoints = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE]]
    config = LlavaNextConfig(
        vision_config=_tower(),
        text_config=_decoder(),
        image_token_index=WORDS.index("<image>"),
        image_seq_length=TOKENS,
        image_grid_pinpoints=pinpoints,
    )
    _save(LlavaNextForConditionalGeneration(config), folder)
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=pinpoints
    )
    LlavaNextProcessor(image_processor=images, **_PROCESSOR, tokenizer=_tokenizer()).save_pretrained(folder)


def _save(small: Any, folder: Path) -> None:
    small.generation_config.eos_token_id = None  # random weights would end at an arbitrary place
    small.generation_config.suppress_tokens = [WORDS.index("<image>")]
    small.save_pretrained(folder)
