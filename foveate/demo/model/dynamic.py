"""The variant of the embedded model with dynamic resolution: Qwen2-VL's tower, its merger of 2 by 2 patches, and M-RoPE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from foveate.demo.model.architecture import cosine_patches, fan_in, known_words
from foveate.demo.model.language import IMAGE_TOKEN
from foveate.demo.model.processing import VIDEO, VISION_END, VISION_START, DynamicProcessor, build_dynamic_processor
from foveate.demo.model.shape import EmbeddedShape, columns_of, kind_of
from foveate.demo.scenes.labels import PATCH
from foveate.files.checkpoints import load_folder, pretrained
from foveate.files.checkpoints.pillow import on_pillow

MERGED = 2  # patches per side of a visual token
FRAMES = 2  # frames that a patch spans; a picture is shown twice

_EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")


def dynamic_configuration(words: dict[str, int], *, hidden: int = 192, tower_layers: int = 6, layers: int = 8) -> Qwen2VLConfig:
    """The configuration of the variant, or of a narrower one for tests.

    Args:
        words: the vocabulary.
        hidden: width of tower and decoder, a multiple of 32.
        tower_layers: depth of the tower.
        layers: depth of the decoder.
    """
    return Qwen2VLConfig(
        vision_config={
            "depth": tower_layers,
            "embed_dim": hidden,
            "hidden_size": hidden,
            "hidden_act": "gelu",
            "mlp_ratio": 4,
            "num_heads": hidden // 32,
            "patch_size": PATCH,
            "spatial_merge_size": MERGED,
            "temporal_patch_size": FRAMES,
        },
        text_config={
            "vocab_size": len(words),
            "hidden_size": hidden,
            "intermediate_size": 8 * hidden // 3,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 32,
            "num_key_value_heads": hidden // 32,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            # Sixteen pairs of channels rotate by time, row and column in turn, so that each of the three has fast and slow
            # ones. With the usual three blocks, columns would get the slowest, which cannot distinguish a dozen columns.
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1] * 14 + [2]},
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        image_token_id=words[IMAGE_TOKEN],
        video_token_id=words[VIDEO],
        vision_start_token_id=words[VISION_START],
        vision_end_token_id=words[VISION_END],
        tie_word_embeddings=True,
    )


class EmbeddedQwen2VL(EmbeddedShape):
    """Pictures with any number of rows and columns, each its own frame; one visual token per 2 by 2 patches."""

    name = "qwen2-vl"
    merged = MERGED
    windows = False
    own_words = (VISION_START, VISION_END, VIDEO)
    around = (1, 1)
    # Here a whole scene has only 144 visual tokens and costs hardly more per question than a small picture, so it comes early.
    curriculum = ((0.1, {10: 0.4, 14: 0.4, 24: 0.2}), (0.4, {10: 0.1, 14: 0.4, 24: 0.5}), (1.0, {14: 0.15, 24: 0.85}))

    def build(self, *, hidden: int, tower_layers: int, layers: int, seed: int) -> Qwen2VLForConditionalGeneration:
        """See `EmbeddedShape.build`."""
        torch.manual_seed(seed)
        configuration = dynamic_configuration(self.vocabulary(), hidden=hidden, tower_layers=tower_layers, layers=layers)
        model = Qwen2VLForConditionalGeneration(configuration).float()
        fan_in(model, last=("attn.proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight"))
        for layer in model.model.language_model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                nn.init.zeros_(projection.bias)
        model.model.visual.patch_embed.proj.weight.data = _over_frames(cosine_patches(hidden))
        nn.init.normal_(model.get_input_embeddings().weight, std=hidden**-0.5)
        return model

    def processor(self, folder: Path | None = None) -> DynamicProcessor:
        """See `EmbeddedShape.processor`."""
        if folder is None:
            return build_dynamic_processor()
        processor: DynamicProcessor = pretrained(DynamicProcessor, folder, local_files_only=True)
        return on_pillow(processor, Qwen2VLImageProcessorPil)  # type: ignore[no-any-return]

    def tower(self, model: Qwen2VLForConditionalGeneration) -> Any:
        """See `EmbeddedShape.tower`; the merger is part of it and trains in both phases."""
        return model.model.visual

    def projector(self, model: Qwen2VLForConditionalGeneration) -> nn.Module:
        """See `EmbeddedShape.projector`."""
        return model.model.visual.merger

    def states(self, tower: Any, patches: Tensor, positions: Tensor) -> Tensor:
        """See `EmbeddedShape.states`; the patches of a token are adjacent."""
        return self._look(tower, patches, positions).last_hidden_state.view(*patches.shape[:2], -1)  # type: ignore[no-any-return]

    def features(self, tower: Any, patches: Tensor, positions: Tensor) -> Tensor:
        """See `EmbeddedShape.features`: visual tokens, so that the merger learns to preserve what its patches show."""
        tokens: Tensor = self._look(tower, patches, positions).pooler_output
        return tokens.view(len(patches), -1, tokens.shape[-1])

    def _look(self, tower: Any, patches: Tensor, positions: Tensor) -> Any:
        batch, count = patches.shape[:2]
        columns = columns_of(positions)
        rows = count // columns
        tiles = patches.view(batch, rows // MERGED, MERGED, columns // MERGED, MERGED, 3, 1, PATCH, PATCH).transpose(2, 3)
        pixels = tiles.expand(-1, -1, -1, -1, -1, -1, FRAMES, -1, -1).reshape(batch * count, -1)
        return tower(pixels, grid_thw=torch.tensor([[1, rows, columns]], device=patches.device).expand(batch, -1))

    def project(self, projector: nn.Module, states: Tensor) -> Tensor:
        """See `EmbeddedShape.project`."""
        tokens: Tensor = projector(states.flatten(0, 1))
        return tokens.view(len(states), -1, tokens.shape[-1])

    def places(self, positions: Tensor) -> tuple[Tensor, int]:
        """See `EmbeddedShape.places`: time, row and column of each token (3, b, n / 4); later text continues from the longer side."""
        columns = columns_of(positions)
        rows = positions.shape[1] // columns
        high, wide = rows // MERGED, columns // MERGED
        down, across = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
        places = torch.stack([torch.zeros_like(down), down, across]).flatten(1).to(positions.device)
        return places[:, None].expand(-1, len(positions), -1), max(high, wide)

    def rotation(self, decoder: Any, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See `EmbeddedShape.rotation`: each pair of channels rotates by one of the three coordinates."""
        sections = decoder.config.rope_parameters["mrope_section"]
        turning = torch.cat([torch.full((length,), index % 3) for index, length in enumerate(sections)]).to(positions.device)
        angles = positions.movedim(0, -1)[..., turning] * decoder.rotary_emb.inv_freq
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(states.dtype), angles.sin().to(states.dtype)

    def spare(self, tower: Any) -> None:
        """See `EmbeddedShape.spare`; everything contributes."""

    def calibrate(self, projector: nn.Module, seen: Tensor) -> None:
        """See `EmbeddedShape.calibrate`; the merger begins with its own norm, and was trained in the first phase."""

    def earlier(self, folder: Path, own: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `EmbeddedShape.earlier`: weights of this shape, or those of a `LlavaForConditionalGeneration`, as far as they apply here."""
        if kind_of(folder) == "qwen2_vl":
            state = load_folder(folder, torch.float32).state_dict()
        else:
            earlier = load_folder(folder, torch.float32)
            state = {**own, **_translated(earlier.state_dict(), own)}
        known_words(state, _EMBEDDINGS, folder, self.vocabulary(), own)
        return state


def _over_frames(patches: Tensor) -> Tensor:
    """Patch embeddings (hidden, 3, 14, 14) split over two frames (hidden, 3, 2, 14, 14), so that a picture shown twice gives the same."""
    return (patches[:, :, None] / FRAMES).expand(-1, -1, FRAMES, -1, -1).contiguous()


def _translated(earlier: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a LLaVA under their names here.

    Blocks and decoder layers correspond; biases that the decoder did not have are zero. Position embeddings are dropped. The merger
    begins with the mean of the projector over its four patches, plus noise that distinguishes them.
    """
    state: dict[str, Tensor] = {}
    for name, weight in earlier.items():
        if name.startswith("model.language_model."):
            state[name] = weight
        if name.endswith("patch_embedding.weight"):
            state["model.visual.patch_embed.proj.weight"] = _over_frames(weight)
        if ".encoder.layers." in name:
            layer, _, part = name.split(".encoder.layers.")[1].partition(".")
            for before, after in _BLOCK.items():
                if part.startswith(before):
                    state[f"model.visual.blocks.{layer}.{part.replace(before, after)}"] = weight
            if part.startswith("self_attn.q_proj"):
                joined = [earlier[name.replace("q_proj", other)] for other in ("q_proj", "k_proj", "v_proj")]
                state[f"model.visual.blocks.{layer}.attn.qkv.{part.rsplit('.', 1)[1]}"] = torch.cat(joined)
    state["lm_head.weight"] = earlier["lm_head.weight"]
    return state | _merger(earlier, own)


_BLOCK = {"layer_norm1": "norm1", "layer_norm2": "norm2", "mlp": "mlp", "self_attn.out_proj": "attn.proj"}
_NOISE = 0.3  # share of the fresh merger, added to the weights that are carried over


def _merger(earlier: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = {name: earlier[f"model.multi_modal_projector.{name}"] for name in ("linear_1.weight", "linear_2.weight", "linear_2.bias")}
    count = MERGED**2
    first, second = (f"model.visual.merger.mlp.{index}.weight" for index in (0, 2))
    each = torch.block_diag(*[weights["linear_1.weight"]] * count)
    mean = torch.cat([weights["linear_2.weight"] / count] * count, dim=1)
    return {
        first: each + _NOISE * own[first],
        "model.visual.merger.mlp.0.bias": earlier["model.multi_modal_projector.linear_1.bias"].repeat(count),
        second: mean + _NOISE * own[second],
        "model.visual.merger.mlp.2.bias": weights["linear_2.bias"],
    }
