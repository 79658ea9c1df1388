"""Tiny random Qwen-VL checkpoints, with processors, in the layout in which transformers saves real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torchvision_here import make_importable
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as CLASSES
from words import word_tokenizer

NAMES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
MARKS = ("<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
WORDS = (*MARKS, "user", "assistant", "?", "<", ">", ".", "seconds", *"0123456789")
VOCABULARY = 96
PATCH, MERGE, TIME = 7, 2, 2

TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}{{ part['text'] }} "
    "{% endfor %}{% endif %} <|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
TEXT = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0},
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
VISION = {"depth": 3, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": TIME}
OWN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "qwen2_vl": ({"embed_dim": 64, "hidden_size": 128}, {}),
    # Windows of two by two tokens, so that they reorder what the tower sees.
    "qwen2_5_vl": (
        {
            "hidden_size": 64,
            "out_hidden_size": 128,
            "intermediate_size": 64,
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        {},
    ),
    "qwen3_vl": (
        {
            "hidden_size": 64,
            "out_hidden_size": 128,
            "intermediate_size": 64,
            "deepstack_visual_indexes": [0, 1, 2],
            "num_position_embeddings": 16,
        },
        {
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "default",
                "mrope_section": [4, 6, 6],
                "rope_theta": 10000.0,
                "mrope_interleaved": True,
            },
        },
    ),
}


def write(model_type: str, folder: Path) -> Path:
    """Save a model whose attention is far from uniform, with its tokenizer and processor."""
    make_importable()
    torch.manual_seed(0)
    vision, text = OWN[model_type]
    ids = {
        "image_token_id": MARKS.index("<|image_pad|>"),
        "video_token_id": MARKS.index("<|video_pad|>"),
        "vision_start_token_id": MARKS.index("<|vision_start|>"),
        "vision_end_token_id": MARKS.index("<|vision_end|>"),
    }
    config = CONFIG_MAPPING[model_type](vision_config={**VISION, **vision}, text_config={**TEXT, **text}, tie_word_embeddings=False, **ids)
    model = getattr(transformers, CLASSES[model_type])(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 1.4 * parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    _processor(model_type).save_pretrained(folder)
    return folder


def _processor(model_type: str) -> Any:
    words = [*WORDS, *(f"w{number}" for number in range(VOCABULARY - len(WORDS)))]
    tokenizer = word_tokenizer(
        words, pad_token="<pad>", additional_special_tokens=[name for name in MARKS if name.startswith("<|")], padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    side = PATCH * MERGE
    sizes = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": TIME}
    sizes["size"] = {"shortest_edge": side * side, "longest_edge": (8 * side) ** 2}
    newer = model_type == "qwen3_vl"
    # vLLM normalises videos in the model, by what the image processor says. In published checkpoints both processors say the same.
    shades = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3} if newer else {}
    images = transformers.Qwen2VLImageProcessor(**sizes, **shades)
    videos = (transformers.Qwen3VLVideoProcessor if newer else transformers.Qwen2VLVideoProcessor)(**sizes)
    kind = {"qwen2_vl": "Qwen2VLProcessor", "qwen2_5_vl": "Qwen2_5_VLProcessor", "qwen3_vl": "Qwen3VLProcessor"}[model_type]
    return getattr(transformers, kind)(images, tokenizer, videos, chat_template=TEMPLATE)
