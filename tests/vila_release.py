"""A tiny random VILA1.5, saved in exactly the layout of the published checkpoints, and its parts to run by hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from words import SCENE, word_tokenizer

SIDE, PATCH = 70, 14
PATCHES = SIDE // PATCH
HALF = (PATCHES + 1) // 2
TOKENS = HALF * HALF
CONTEXT = 512
WORDS = [
    "<unk>",
    "<s>",
    "</s>",
    "USER",
    ":",
    "ASSISTANT",
    "?",
    ".",
    "'",
    ",",
    *SCENE,
]
FORMS = {"vicuna_v1": [], "llama_3": ["<|begin_of_text|>", "<|eot_id|>"], "hermes-2": ["<|im_start|>", "<|im_end|>"]}

GENERIC = {
    "add_cross_attention": False,
    "bad_words_ids": None,
    "chunk_size_feed_forward": 0,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_encoder_decoder": False,
    "length_penalty": 1.0,
    "max_length": 20,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "pruned_heads": {},
    "return_dict": True,
    "temperature": 1.0,
    "top_k": 50,
    "torch_dtype": "bfloat16",
    "use_bfloat16": False,
}
"""Some of what every configuration file of that time carried along."""


@dataclass(frozen=True)
class Parts:
    """The three parts of the saved model, in float32."""

    llm: LlamaForCausalLM
    tower: SiglipVisionModel
    projector: nn.Sequential

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Visual tokens (images, TOKENS, d), square by square."""
        patches = self.tower(pixels, output_hidden_states=True).hidden_states[-2]
        grid = torch.zeros(len(pixels), 2 * HALF, 2 * HALF, patches.shape[-1])
        grid[:, :PATCHES, :PATCHES] = patches.view(len(pixels), PATCHES, PATCHES, -1)
        squares = [
            torch.cat([grid[:, 2 * row + down, 2 * column + right] for down in (0, 1) for right in (0, 1)], dim=-1)
            for column in range(HALF)
            for row in range(HALF)
        ]
        joined = torch.stack(squares, 1)
        norm, first, second = self.projector
        normed = F.layer_norm(joined, joined.shape[-1:], norm.weight, norm.bias, 1e-5)
        return second(F.gelu(first(normed)))

    @torch.no_grad()
    def logits(self, pieces: list[list[int] | Tensor]) -> Tensor:
        """Logits (s, v) of one prompt, given as ids and features in turn."""
        embed = self.llm.get_input_embeddings()
        states = [piece if isinstance(piece, Tensor) else embed(torch.tensor(piece)) for piece in pieces if len(piece)]
        return self.llm(inputs_embeds=torch.cat(states)[None]).logits[0]


def save_release(folder: Path, *, form: str = "vicuna_v1", weights: str = "shards", **changes: Any) -> Parts:
    """Write the folder of a small model.

    Args:
        folder: to be made.
        form: which prompt form its vocabulary belongs to.
        weights: "shards" of safetensors for the language model, or "bin" for files of `torch.save` in all parts.
        changes: entries of the top-level configuration that are to differ.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer(form)
    parts = _parts(len(tokenizer))
    settings = {
        "llm": {
            **GENERIC,
            **parts.llm.config.to_dict(),
            "architectures": ["LlamaForCausalLM"],
            "rope_theta": 10000.0,
            "rope_scaling": None,
        },
        "vision_tower": {**GENERIC, **parts.tower.config.to_dict(), "architectures": ["SiglipVisionModel"]},
        "mm_projector": {
            **GENERIC,
            "architectures": ["MultimodalProjector"],
            "mm_projector_type": "mlp_downsample",
            "model_type": "v2l_projector",
        },
    }
    settings["llm"].pop("rope_parameters", None)
    projector = {
        f"layers.{number}.{name}": value
        for number, part in zip((1, 2, 4), parts.projector, strict=True)
        for name, value in part.state_dict().items()
    }
    states = {
        "llm": parts.llm.state_dict(),
        "vision_tower": {f"vision_model.{name}": value for name, value in parts.tower.state_dict().items()},
        "mm_projector": projector,
    }
    for name, state in states.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(settings[name]))
        _write(folder / name, {key: value.contiguous() for key, value in state.items()}, weights, sharded=name == "llm")
    tokenizer.save_pretrained(folder / "llm")
    size = {"height": SIDE, "width": SIDE}
    SiglipImageProcessorPil(size=size).save_pretrained(folder / "vision_tower")
    top = {
        "_name_or_path": "./vlm",
        "architectures": ["LlavaLlamaModel"],
        "drop_path_rate": 0.0,
        "hidden_size": 32,
        "image_aspect_ratio": "resize",
        "interpolate_mode": "linear",
        "llm_cfg": {**settings["llm"], "_name_or_path": "./llm"},
        "mm_hidden_size": 32,
        "mm_projector_cfg": {**settings["mm_projector"], "_name_or_path": "./mm_projector"},
        "mm_projector_lr": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "cls_patch",
        "mm_vision_select_layer": -2,
        "model_dtype": "torch.float32",
        "model_type": "llava_llama",
        "num_video_frames": 8,
        "resume_path": "./vlm",
        "s2": False,
        "s2_max_split_size": 336,
        "s2_scales": "336,672,1008",
        "transformers_version": "4.36.2",
        "tune_language_model": True,
        "vision_resolution": -1,
        "vision_tower_cfg": {**settings["vision_tower"], "_name_or_path": "./vision_tower"},
    }
    (folder / "config.json").write_text(json.dumps({**top, **changes}))
    return parts


def _parts(vocabulary: int) -> Parts:
    text = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        rms_norm_eps=1e-5,
    )
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE, patch_size=PATCH
    )
    llm, tower = LlamaForCausalLM(text).eval(), SiglipVisionModel(vision).eval()
    projector = nn.Sequential(nn.LayerNorm(128), nn.Linear(128, 32), nn.Linear(32, 32))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in [*llm.parameters(), *tower.parameters(), *projector.parameters()]:
            scale = 1.4 * parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            noise = torch.randn(parameter.shape, generator=generator) * scale
            parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    return Parts(llm, tower, projector)


def _tokenizer(form: str) -> PreTrainedTokenizerFast:
    words = [*WORDS, *FORMS[form]]
    first = "<|begin_of_text|>" if form == "llama_3" else "<s>"
    behind = processors.TemplateProcessing(single=f"{first} $A", special_tokens=[(first, words.index(first))])
    return word_tokenizer(words, post_processor=behind, bos_token=first, eos_token="</s>", additional_special_tokens=FORMS[form] or None)


def _write(folder: Path, state: dict[str, Tensor], kind: str, *, sharded: bool) -> None:
    if kind == "bin":
        torch.save(state, folder / "pytorch_model.bin")
        return
    if not sharded:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, where = sorted(state), {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        where.update(dict.fromkeys(part, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
