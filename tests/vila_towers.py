"""Tiny random vision towers as VILA1.5's releases hold them, with their features computed apart from the code under test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SiglipVisionConfig, SiglipVisionModel

PATCH = 14


@dataclass(frozen=True)
class Tower:
    """What a release says of its tower and keeps in `vision_tower/`.

    Attributes:
        config: config.json.
        preprocessor: preprocessor_config.json.
        selected: entries of the top-level configuration about features.
        state: weights by the names in the files.
        sharded: whether they are in several files.
        patches: pixels (images, 3, h, w) to the features that are projected (images, patches, c).
    """

    config: dict[str, Any]
    preprocessor: dict[str, Any]
    selected: dict[str, Any]
    state: dict[str, Tensor]
    sharded: bool
    patches: Callable[[Tensor], Tensor]


def siglip() -> Tower:
    """As in the 3B, 8B and 13B models, with an odd number of patches in a row."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=5 * PATCH, patch_size=PATCH)).eval()
    model.load_state_dict(randomised(model.state_dict()))
    side, half = 5 * PATCH, [0.5, 0.5, 0.5]
    scaling = {"do_rescale": True, "rescale_factor": 1 / 255, "do_resize": True, "resample": 3, "size": {"height": side, "width": side}}
    return Tower(
        config={**model.config.to_dict(), "architectures": ["SiglipVisionModel"]},
        preprocessor={
            "do_normalize": True,
            "image_mean": half,
            "image_std": half,
            "image_processor_type": "SiglipImageProcessor",
            **scaling,
        },
        selected={"mm_vision_select_feature": "cls_patch", "mm_vision_select_layer": -2},
        state={f"vision_model.{name}": value for name, value in model.state_dict().items()},
        sharded=False,
        patches=lambda pixels: model(pixels, output_hidden_states=True).hidden_states[-2],
    )


INTERNVIT = {
    "_name_or_path": "./vision_tower",
    "architectures": ["InternVisionModel"],
    "attention_dropout": 0.0,
    "drop_path_rate": 0.0,
    "dropout": 0.0,
    "hidden_act": "gelu",
    "hidden_size": 3200,
    "image_size": 448,
    "initializer_factor": 0.1,
    "initializer_range": 1e-10,
    "intermediate_size": 12800,
    "layer_norm_eps": 1e-06,
    "model_type": "intern_vit_6b",
    "num_attention_heads": 25,
    "num_channels": 3,
    "num_hidden_layers": 45,
    "patch_size": PATCH,
    "qk_normalization": True,
    "qkv_bias": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.2",
    "use_bfloat16": True,
    "use_flash_attn": True,
}
"""The published `vision_tower/config.json` of VILA1.5-40b."""


def internvit() -> Tower:
    """As in the 40B model, with as many visual tokens as the one above."""
    sizes = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 6 * PATCH}
    config = {**INTERNVIT, **sizes}
    state = randomised({name: torch.ones(shape) if len(shape) == 1 else torch.zeros(shape) for name, shape in shapes(config).items()})
    return Tower(
        config=config,
        preprocessor={"image_processor_type": "InternVisionPreprocessor"},
        selected={"mm_vision_select_feature": "patch", "mm_vision_select_layer": -1},
        state=state,
        sharded=True,
        patches=lambda pixels: internvit_states(state, config, pixels)[:, 1:],
    )


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of an InternViT's weights, by the names that its releases have for them."""
    width, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    layer: dict[str, tuple[int, ...]] = dict.fromkeys(("norm1.weight", "norm2.weight", "ls1", "ls2"), (width,))
    layer |= dict.fromkeys(("attn.q_norm.weight", "attn.k_norm.weight", "attn.proj.bias", "mlp.fc2.bias"), (width,))
    layer |= {"attn.qkv.weight": (3 * width, width), "attn.proj.weight": (width, width), "mlp.fc1.bias": (inner,)}
    layer |= {"mlp.fc1.weight": (inner, width), "mlp.fc2.weight": (width, inner)}
    return {
        "embeddings.class_embedding": (1, 1, width),
        "embeddings.position_embedding": (1, (config["image_size"] // patch) ** 2 + 1, width),
        "embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "embeddings.patch_embedding.bias": (width,),
        **{f"encoder.layers.{number}.{name}": shape for number in range(config["num_hidden_layers"]) for name, shape in layer.items()},
    }


@torch.no_grad()
def internvit_states(state: dict[str, Tensor], config: dict[str, Any], pixels: Tensor) -> Tensor:
    """What an InternViT's last layer gives (images, 1 + patches, c), after its paper: https://arxiv.org/abs/2312.14238."""
    patches = F.conv2d(pixels, *_linear(state, "embeddings.patch_embedding"), stride=config["patch_size"]).flatten(2).mT
    first = state["embeddings.class_embedding"].expand(len(pixels), -1, -1)
    states = torch.cat([first, patches], 1) + state["embeddings.position_embedding"]
    width, heads = config["hidden_size"], config["num_attention_heads"]
    for number in range(config["num_hidden_layers"]):
        own = {name.split(".", 3)[3]: value for name, value in state.items() if name.startswith(f"encoder.layers.{number}.")}
        together = _normed(states, own["norm1.weight"]) @ own["attn.qkv.weight"].T
        query, key, value = together[..., :width], together[..., width : 2 * width], together[..., 2 * width :]
        # each norm is over all heads at once
        query, key = _normed(query, own["attn.q_norm.weight"]), _normed(key, own["attn.k_norm.weight"])
        seen = []
        for q, k, v in zip(*(part.split(width // heads, -1) for part in (query, key, value)), strict=True):
            seen.append((q @ k.mT / math.sqrt(width // heads)).softmax(-1) @ v)
        states = states + own["ls1"] * F.linear(torch.cat(seen, -1), *_linear(own, "attn.proj"))
        inner = F.gelu(F.linear(_normed(states, own["norm2.weight"]), *_linear(own, "mlp.fc1")))
        states = states + own["ls2"] * F.linear(inner, *_linear(own, "mlp.fc2"))
    return states


def _linear(state: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return state[f"{name}.weight"], state[f"{name}.bias"]


def _normed(states: Tensor, weight: Tensor) -> Tensor:
    return weight * states / (states.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def randomised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Vectors moved a little, everything else random, so that attention is far from uniform."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, value in state.items():
        noise = torch.randn(value.shape, generator=generator)
        found[name] = value + 0.1 * noise if value.ndim < 2 else noise * 1.4 * value[0].numel() ** -0.5
    return found
