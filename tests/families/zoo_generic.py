"""Tiny random models of the generic path, one per model type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from zoo import END, IMAGE, MARK, NEWLINE, START, VIDEO, WHOLE, Case, Piece, clip, model_of, noise, own_tower, plain, siglip, text, tower

SQUARE = (1, 4, 4)
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
BOTH = {"image_token_id": IMAGE, "video_token_id": VIDEO}
MARKS = {"image_start_token_id": START, "image_end_token_id": END, "video_start_token_id": 85, "video_end_token_id": 86}
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1}
GRIDS = ((6, 8), (4, 4), (8, 2), (2, 6))
"""(rows, columns) of patches, two by two of which become a token."""


def square(seed: int, name: str = "pixel_values", pixels: int = 28) -> Piece:
    """One image of 16 tokens and nothing around it."""
    return plain(16, SQUARE, {name: noise(seed, 1, 3, pixels, pixels)})


def between(seed: int, name: str = "pixel_values", pixels: int = 28) -> Piece:
    """One image of 16 tokens between a start and an end."""
    return plain(16, SQUARE, {name: noise(seed, 1, 3, pixels, pixels)}, before=[START], after=[END])


def crops(seed: int) -> Piece:
    """Consecutive crops."""
    count = 1 + seed % 3
    ids = (START, *[IMAGE] * 16 * count, END)
    return Piece(ids, tuple(range(1, 1 + 16 * count)), (SQUARE,) * count, {"pixel_values": noise(seed, count, 3, 256, 256)})


def merged(seed: int, *patch: int, block: int = 2, more: dict[str, Any] | None = None) -> Piece:
    """A grid of patches of any size."""
    rows, columns = GRIDS[seed % len(GRIDS)]
    grid = (1, rows // block, columns // block)
    tensors = {"pixel_values": noise(seed, rows * columns, *patch), "image_grid_thw": torch.tensor([[1, rows, columns]]), **(more or {})}
    return plain(grid[1] * grid[2], grid, tensors, before=[START], after=[END])


def got_ocr(model_type: str) -> Any:
    sizes = {"image_size": 256, "patch_size": 16, "mlp_dim": 64, "output_channels": 16, "global_attn_indexes": [1], "window_size": 4}
    vision = own_tower(model_type, **sizes)
    return model_of(model_type, sdpa=False, vision_config=vision, text_config=text("qwen2"), image_token_index=IMAGE, image_seq_length=16)


def aria() -> Any:
    vision = tower("idefics3_vision", image_size=32, patch_size=4)
    decoder = text("aria_text", moe_num_experts=4)
    return model_of("aria", vision_config=vision, text_config=decoder, image_token_index=IMAGE, projector_patch_to_query_dict={64: 12})


def aria_image(seed: int) -> Piece:
    count = 1 + seed % 2
    tensors = {"pixel_values": noise(seed, count, 3, 32, 32), "pixel_mask": torch.ones(count, 32, 32, dtype=torch.bool)}
    return Piece((START, *[IMAGE] * 12 * count, END), tuple(range(1, 1 + 12 * count)), ((1, 1, 12),) * count, tensors)


def deepseek_vl() -> Any:
    return model_of("deepseek_vl", vision_config=siglip(), text_config=text(), image_token_id=IMAGE)


def deepseek_vl_hybrid() -> Any:
    sizes = {"image_size": 128, "patch_size": 8, "mlp_dim": 64, "output_channels": 16, "global_attn_indexes": [1], "window_size": 4}
    sharp = tower("sam_vision_model", num_pos_feats=16, **sizes)
    return model_of("deepseek_vl_hybrid", vision_config=siglip(), high_res_vision_config=sharp, text_config=text(), image_token_id=IMAGE)


def twice(seed: int) -> Piece:
    low = square(seed)
    return Piece(low.ids, low.content, low.parts, {**low.tensors, "high_res_pixel_values": noise(seed, 1, 3, 128, 128)})


def janus() -> Any:
    vision = tower("janus_vision_model", image_size=28, patch_size=7, projection_dim=32, num_image_tokens=16)
    small = {"base_channels": 32, "channel_multiplier": [1, 1], "latent_channels": 16, "num_embeddings": 16, "num_patches": 4}
    sizes = {"image_token_embed_dim": 32, "projection_dim": 32, "num_res_blocks": 1}
    drawing = tower("janus_vqgan", **small, **sizes)
    return model_of("janus", vision_config=vision, vq_config=drawing, text_config=text(), image_token_id=IMAGE)


def ovis2() -> Any:
    vision = own_tower("ovis2", image_size=28, patch_size=7, vocab_size=32, hidden_stride=1)
    ids = {"image_token_id": IMAGE, "visual_indicator_token_ids": [START, MARK, NEWLINE, WHOLE, END]}
    return model_of("ovis2", vision_config=vision, text_config=text("qwen2"), hidden_size=32, vocab_size=96, **ids)


def ovis2_image(seed: int) -> Piece:
    """The whole picture, then rows and columns of crops with separators."""
    rows, columns = ((1, 1), (1, 2), (2, 1), (2, 2))[seed % 4]
    atom = [IMAGE] * 16
    ids = [START, *atom, MARK]
    if rows * columns > 1:
        for row in range(rows):
            for column in range(columns):
                ids += [*atom, *[NEWLINE] * (column < columns - 1)]
            ids += [WHOLE] * (row < rows - 1)
    ids.append(END)
    content = tuple(place for place, token in enumerate(ids) if token == IMAGE)
    count = len(content) // 16
    return Piece(tuple(ids), content, (SQUARE,) * count, {"pixel_values": noise(seed, count, 3, 28, 28)})


def video_llama_3() -> Any:
    vision = tower("video_llama_3_vision", patch_size=4)
    return model_of("video_llama_3", vision_config=vision, text_config=text("qwen2"), **BOTH)


def video_llava() -> Any:
    return model_of("video_llava", vision_config=clip(), text_config=text(), image_token_index=IMAGE, video_token_index=VIDEO)


def vipllava() -> Any:
    return model_of("vipllava", vision_config=clip(), text_config=text(), image_token_index=IMAGE, vision_feature_layers=[-2, -1])


def hyperclovax() -> Any:
    sizes = {"depth": 2, "num_heads": 4, "patch_size": 4, "out_hidden_size": 32, "window_size": 16, "fullatt_block_indexes": [1]}
    vision = tower("qwen2_5_vl_vision", **sizes)
    return model_of("hyperclovax_vision_v2", vision_config=vision, text_config=text("hyperclovax"), **BOTH)


def kimi() -> Any:
    vision = tower("kimi_k25_vision", patch_size=4, pos_emb_height=8, pos_emb_width=8)
    latent = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    decoder = text("deepseek_v3", **latent, **EXPERTS, n_group=1, topk_group=1, num_key_value_heads=4)
    return model_of("kimi_k25", vision_config=vision, text_config=decoder, projection_hidden_size=32, **BOTH)


def glm(model_type: str, vision: str, decoder: str, **more: Any) -> Any:
    eyes = tower(vision, depth=2, num_heads=4, patch_size=4, out_hidden_size=32, image_size=32)
    words = text(decoder, **{"rope_parameters": ROPE, **more})
    return model_of(model_type, vision_config=eyes, text_config=words, **BOTH, **MARKS)


def paddle() -> Any:
    eyes = tower("paddleocr_vl_vision", patch_size=4, image_size=32)
    words = text("paddleocr_vl_text", rope_parameters=ROPE)
    return model_of("paddleocr_vl", vision_config=eyes, text_config=words, **BOTH, vision_start_token_id=START, vision_end_token_id=END)


def cosmos() -> Any:
    eyes = tower("cosmos3_edge_vision", patch_size=4, num_patches=64)
    words = text("cosmos3_edge_text", rope_parameters=ROPE)
    marks = {"vision_start_token_id": START, "vision_end_token_id": END, "projector_hidden_size": 32}
    return model_of("cosmos3_edge", vision_config=eyes, text_config=words, **BOTH, **marks)


def case(model_type: str, build: Callable[[], Any], image: Callable[[int], Piece], **more: Any) -> Case:
    return Case(model_type, model_type, build, image, **more)


MOE_ROPE = {**ROPE, "partial_rotary_factor": 1.0}


def flat(*patch: int) -> Callable[[int], Piece]:
    return lambda seed: merged(seed, *patch)


CASES = [
    case("aria", aria, aria_image),
    case("cosmos3_edge", cosmos, flat(48), typed=True),
    case("deepseek_vl", deepseek_vl, square),
    case("deepseek_vl_hybrid", deepseek_vl_hybrid, twice),
    case("glm46v", partial(glm, "glm46v", "glm4v_vision", "glm4v_text"), flat(96), typed=True),
    case("glm4v", partial(glm, "glm4v", "glm4v_vision", "glm4v_text"), flat(96), typed=True),
    case(
        "glm4v_moe",
        partial(glm, "glm4v_moe", "glm4v_moe_vision", "glm4v_moe_text", **EXPERTS, rope_parameters=MOE_ROPE),
        flat(96),
        typed=True,
    ),
    case("glm_ocr", partial(glm, "glm_ocr", "glm_ocr_vision", "glm_ocr_text"), flat(96), typed=True),
    case("glmga", partial(glm, "glmga", "glm4v_vision", "glm4v_text"), flat(96), typed=True),
    case("got_ocr2", partial(got_ocr, "got_ocr2"), crops),
    case("hyperclovax_vision_v2", hyperclovax, flat(96)),
    case("janus", janus, between),
    case("kimi_k25", kimi, flat(3, 4, 4)),
    case("ovis2", ovis2, ovis2_image),
    case("paddleocr_vl", paddle, flat(3, 4, 4), typed=True),
    case("pp_chart2table", partial(got_ocr, "pp_chart2table"), crops),
    case("video_llama_3", video_llama_3, lambda seed: merged(seed, 48, more={"image_merge_sizes": torch.tensor([2])})),
    case("video_llava", video_llava, partial(square, name="pixel_values_images")),
    case("vipllava", vipllava, square),
]
