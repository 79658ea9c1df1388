"""A tiny random VILA1.5, built in memory; `vila_release` saves one as the published checkpoints are."""

from __future__ import annotations

from typing import Any

import torch
from zoo import IMAGE, Case, Piece, noise, randomised, siglip, text, tower

from foveate.families.vila import VilaConfig, VilaForConditionalGeneration

HALF = 3


def vila(vision: Any, **features: Any) -> Any:
    torch.manual_seed(0)
    config = VilaConfig(vision_config=vision, text_config=text(), image_token_index=IMAGE, **features)
    config._attn_implementation = "sdpa"
    return randomised(VilaForConditionalGeneration(config))


def with_siglip() -> Any:
    """An odd number of patches, the last row and column of which are joined with zeros."""
    return vila(siglip(5), vision_feature_layer=-2, vision_feature_select_strategy="full")


def with_internvit() -> Any:
    """An even number of patches after a class token."""
    options = {"norm_type": "rms_norm", "use_qk_norm": True, "layer_scale_init_value": 1.0}
    vision = tower("internvl_vision", image_size=(42, 42), patch_size=(7, 7), **options)
    return vila(vision, vision_feature_layer=-1, vision_feature_select_strategy="default")


def image(seed: int, patches: int = 5) -> Piece:
    """Placeholders go down the columns of the grid."""
    content = tuple(column * HALF + row for row in range(HALF) for column in range(HALF))
    side = 7 * patches
    return Piece((IMAGE,) * HALF**2, content, ((1, HALF, HALF),), {"pixel_values": noise(seed, 1, 3, side, side)})


CASES = [
    Case("vila", "llava_llama", with_siglip, image),
    Case("vila", "llava_llama", with_internvit, lambda seed: image(seed, patches=6), variant="internvit"),
]
