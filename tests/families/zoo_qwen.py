"""Tiny random Qwen-VL models, and their images and videos as the processors would make them."""

from __future__ import annotations

from typing import Any

import torch
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from zoo import END, IMAGE, PAD, START, VIDEO, VOCABULARY, Case, Piece, model_of, noise, together

PATCH, MERGE, TIME = 7, 2, 2
SIZES = ((4, 6), (6, 4), (10, 6), (2, 8))
"""(rows, columns) of patches."""

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 2048,
    "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0},
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
}
VISION = {"depth": 3, "num_heads": 4, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": TIME}
TOKENS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END}


def qwen(model_type: str, vision: dict[str, Any], **text: Any) -> Any:
    """The nested configurations as dictionaries, as in a checkpoint."""
    nested = CONFIG_MAPPING[model_type](vision_config={**VISION, **vision}, text_config={**TEXT, **text}, **TOKENS)
    return model_of(model_type, vision_config=nested.vision_config, text_config=nested.text_config, **TOKENS)


def qwen2() -> Any:
    return qwen("qwen2_vl", {"embed_dim": 32, "hidden_size": 32})


def qwen25() -> Any:
    # Windows of two by two tokens, so that they reorder what the tower sees.
    sizes = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "window_size": 4 * PATCH, "fullatt_block_indexes": [1]}
    return qwen("qwen2_5_vl", sizes)


def qwen3(model_type: str = "qwen3_vl", **text: Any) -> Any:
    sizes = {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "deepstack_visual_indexes": [0, 1, 2]}
    return qwen(model_type, {**sizes, "num_position_embeddings": 16}, head_dim=8, **text)


def patches(seed: int, frames: int, rows: int, columns: int) -> torch.Tensor:
    return noise(seed, frames * rows * columns, 3 * TIME * PATCH**2)


def image(seed: int) -> Piece:
    rows, columns = SIZES[seed % len(SIZES)]
    grid = (1, rows // MERGE, columns // MERGE)
    tokens = grid[1] * grid[2]
    tensors = {"pixel_values": patches(seed, 1, rows, columns), "image_grid_thw": torch.tensor([[1, rows, columns]])}
    return Piece((START, *[IMAGE] * tokens, END), tuple(range(1, 1 + tokens)), (grid,), tensors)


def clip(seed: int, frames: int, rows: int, columns: int) -> tuple[tuple[int, int, int], dict[str, torch.Tensor]]:
    tensors = {"pixel_values_videos": patches(seed, frames, rows, columns), "video_grid_thw": torch.tensor([[frames, rows, columns]])}
    return (frames, rows // MERGE, columns // MERGE), tensors


def video(seed: int) -> Piece:
    """More frames than rows or columns of tokens, so that time runs ahead of the text's positions."""
    grid, tensors = clip(seed, 5, 4, 6)
    tokens = grid[0] * grid[1] * grid[2]
    return Piece((START, *[VIDEO] * tokens, END), tuple(range(1, 1 + tokens)), (grid,), tensors, "video")


def stamped(seed: int) -> Piece:
    """Every frame after its time stamp."""
    grid, tensors = clip(seed, 3, 4, 6)
    ids: list[int] = []
    for frame in range(grid[0]):
        ids += [61 + frame, 70, START, *[VIDEO] * (grid[1] * grid[2]), END]
    content = tuple(place for place, token in enumerate(ids) if token == VIDEO)
    return Piece(tuple(ids), content, (grid,), tensors, "video")


MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1}

CASES = [
    Case("qwen2-vl", "qwen2_vl", qwen2, image, video, together, typed=True),
    Case("qwen2-vl", "qwen2_5_vl", qwen25, image, video, together, typed=True),
    Case("qwen3-vl", "qwen3_vl", qwen3, image, stamped, together, typed=True),
    Case("qwen3-vl", "qwen3_vl_moe", lambda: qwen3("qwen3_vl_moe", **MOE), image, stamped, together, typed=True),
]
