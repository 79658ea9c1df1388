"""CLIP, SigLIP and Pixtral vision towers, and the layer whose output LLaVA-like configurations project."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["CLASS_TOKENS", "feature_attention", "feature_block", "single_layer"]

CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Vision towers whose patches form a square, with the number of class tokens before them."""


def feature_attention(tower: nn.Module, config: Any) -> nn.Module:
    """The attention module of the CLIP, SigLIP or Pixtral layer whose output is projected."""
    inner: Any = getattr(tower, "vision_model", tower)  # some versions have a wrapper around the tower
    if hasattr(inner, "transformer"):  # Pixtral
        return inner.transformer.layers[feature_block(config)].attention  # type: ignore[no-any-return]
    return inner.encoder.layers[feature_block(config)].self_attn  # type: ignore[no-any-return]


def feature_block(config: Any) -> int:
    """Index of the tower layer whose output is projected, by default the last; hidden states count the input as number 0."""
    layer: int = getattr(config, "vision_feature_layer", -1)
    return layer if layer < 0 else layer - 1


def single_layer(config: Any) -> bool:
    """Whether the features come from a single layer: features joined from several layers have no attention of their own."""
    return isinstance(getattr(config, "vision_feature_layer", -1), int)
