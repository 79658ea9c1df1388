"""A tiny random VILA1.5, built in memory; `vila_release` saves one as the published checkpoints are."""

from __future__ import annotations

from typing import Any

import torch
from zoo import IMAGE, Case, Piece, noise, randomised, siglip, text

from foveate.families.vila import VilaConfig, VilaForConditionalGeneration

PATCHES, HALF = 5, 3


def vila() -> Any:
    """An odd number of patches, the last row and column of which are joined with zeros."""
    torch.manual_seed(0)
    features = {"vision_feature_layer": -2, "vision_feature_select_strategy": "full"}
    config = VilaConfig(vision_config=siglip(PATCHES), text_config=text(), image_token_index=IMAGE, **features)
    config._attn_implementation = "sdpa"
    return randomised(VilaForConditionalGeneration(config))


def image(seed: int) -> Piece:
    """Placeholders go down the columns of the grid."""
    content = tuple(column * HALF + row for row in range(HALF) for column in range(HALF))
    side = 7 * PATCHES
    return Piece((IMAGE,) * HALF**2, content, ((1, HALF, HALF),), {"pixel_values": noise(seed, 1, 3, side, side)})


CASES = [Case("vila", "llava_llama", vila, image)]
