"""InternViT-6B, the vision tower of VILA1.5-40b, as the tower of transformers' InternVL, with settings and weights renamed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from foveate.errors import UnsupportedModelError

__all__ = ["MODEL_TYPE", "RELEASED", "settings", "weights"]

RELEASED = "intern_vit_6b"
"""The tower's `model_type` in a release."""

MODEL_TYPE = "internvl_vision"
"""Its `model_type` in transformers."""

_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size", "patch_size")
_SAME = (*_SIZES, "hidden_act", "attention_dropout", "initializer_range", "layer_norm_eps")
_SETTINGS = {name: name for name in _SAME} | {
    "qkv_bias": "attention_bias",
    "qk_normalization": "use_qk_norm",
    "dropout": "projection_dropout",
    "initializer_factor": "layer_scale_init_value",
}

_QUERY_KEY_EPSILON = 1e-6
"""The epsilon with which transformers normalises queries and keys, whatever the configuration says."""

_NAMES = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.patch_embedding.": "embeddings.patch_embeddings.projection.",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "encoder.layers.": "encoder.layer.",
    ".attn.proj.": ".attention.projection_layer.",
    ".attn.": ".attention.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".ls1": ".lambda_1",
    ".ls2": ".lambda_2",
}


def settings(release: dict[str, Any]) -> dict[str, Any]:
    """The tower's configuration for transformers.

    Args:
        release: its configuration in a release.

    Raises:
        UnsupportedModelError: the tower would be computed with another epsilon than its configuration's.
    """
    epsilon = release.get("layer_norm_eps", _QUERY_KEY_EPSILON)
    if release.get("qk_normalization") and epsilon != _QUERY_KEY_EPSILON:
        raise UnsupportedModelError(
            f"vision_tower_cfg.layer_norm_eps={epsilon} is not supported in this VILA: "
            f"transformers normalises an InternViT's queries and keys with {_QUERY_KEY_EPSILON}"
        )
    # A release does not name its norm: its training code has only this one.
    found = {own: release[name] for name, own in _SETTINGS.items() if name in release}
    return {"model_type": MODEL_TYPE, "norm_type": "rms_norm", **found}


def weights(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A weight of the release under its name in transformers; the joint weight of queries, keys and values becomes three.

    Args:
        name: its name in the release's files.
        tensor: as in the release; `attn.qkv` is (3 d, ...): d rows for queries, d for keys, d for values.
    """
    for found, own in _NAMES.items():
        name = name.replace(found, own)
    if ".qkv." not in name:
        yield name, tensor
        return
    for letter, part in zip("qkv", tensor.chunk(3), strict=False):  # missing rows are reported when the model is loaded
        yield name.replace(".qkv.", f".{letter}_proj."), part
