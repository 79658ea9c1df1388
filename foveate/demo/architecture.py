"""The embedded model's shape, and how its weights start."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from foveate.demo.labels import GRID, PATCH

ATTENTION = "foveate_demo_matmul"


def _matmul_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: object
) -> tuple[Tensor, None]:
    """Attention as two plain products: for short sequences in bfloat16 on a CPU several times faster than the fused one."""
    scores = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores + attention_mask
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, _matmul_attention)


def fastest_attention(device: torch.device | str, dtype: torch.dtype) -> str:
    """The implementation to train the tower with: the fused one but for half precision on a CPU, where it is slow."""
    return ATTENTION if torch.device(device).type == "cpu" and dtype == torch.bfloat16 else "sdpa"


def configuration(vocabulary: int, image_token: int, *, hidden: int = 192, tower_layers: int = 6, layers: int = 8) -> LlavaConfig:
    """The configuration of the embedded model, or of a narrower one for tests."""
    tower = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=tower_layers,
        num_attention_heads=hidden // 32,
        image_size=GRID * PATCH,
        patch_size=PATCH,
        hidden_act="gelu",
        projection_dim=hidden,
    )
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=8 * hidden // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlavaConfig(
        vision_config=tower,
        text_config=text,
        image_token_index=image_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
    )


def build(configuration: LlavaConfig, seed: int) -> LlavaForConditionalGeneration:
    """A model with weights that start well at this width, in float32 and reproducible from `seed`.

    Linear layers start by their fan-in (the usual 0.02 is too small at 192), position embeddings as sines and
    cosines of row and column, and patch embeddings as the smoothest cosine patterns of a patch.
    """
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(configuration).float()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, weight in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")):
            weight.data.mul_(0.5)
    tower = model.model.vision_tower
    assert isinstance(tower, CLIPVisionModel)
    embeddings = tower.embeddings
    embeddings.position_embedding.weight.data[1:] = sine_positions(configuration.vision_config.hidden_size)
    embeddings.position_embedding.weight.data[0] = 0
    embeddings.patch_embedding.weight.data = cosine_patches(configuration.vision_config.hidden_size)
    nn.init.normal_(model.get_input_embeddings().weight, std=configuration.text_config.hidden_size**-0.5)
    return model


def sine_positions(width: int) -> Tensor:
    """Sine-cosine embeddings (576, width) of the patches' rows and columns, half the width for each."""
    frequencies = math.pi / GRID * 2 ** torch.linspace(0, math.log2(GRID), width // 4)
    angles = torch.arange(GRID)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = line[:, None].expand(GRID, GRID, -1)
    columns = line[None, :].expand(GRID, GRID, -1)
    return 0.7 * torch.cat([rows, columns], dim=-1).reshape(GRID * GRID, -1)


def cosine_patches(width: int) -> Tensor:
    """Orthonormal patterns (width, 3, 14, 14): two thirds of brightness, one third of colour, smoothest first."""
    line = torch.cos(math.pi / PATCH * (torch.arange(PATCH) + 0.5)[None] * torch.arange(PATCH)[:, None])
    line = line / line.norm(dim=1, keepdim=True)
    patterns = torch.einsum("iy,jx->ijyx", line, line).reshape(-1, PATCH, PATCH)
    order = torch.argsort((torch.arange(PATCH)[:, None] + torch.arange(PATCH)).reshape(-1), stable=True)
    patterns = patterns[order]
    tints = torch.linalg.qr(torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 1.0], [1.0, 0.0, -1.0]]))[0].T
    share = width // 6
    counts = (width - 2 * share, share, share)
    parts = [tint[None, :, None, None] * patterns[:count, None] for tint, count in zip(tints, counts, strict=True)]
    return torch.cat(parts)
