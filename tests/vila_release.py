"""A tiny random VILA1.5, saved in exactly the layout of the published checkpoints, and its parts to run by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import processors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from vila_towers import Tower, randomised, siglip
from words import SCENE, word_tokenizer

HALF = 3
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
    tower: Tower
    projector: nn.Sequential

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Visual tokens (images, TOKENS, d), square by square."""
        patches = self.tower.patches(pixels)
        side = int(patches.shape[1] ** 0.5)
        grid = torch.zeros(len(pixels), 2 * HALF, 2 * HALF, patches.shape[-1])
        grid[:, :side, :side] = patches.view(len(pixels), side, side, -1)
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


def save_release(
    folder: Path, *, form: str = "vicuna_v1", weights: str = "shards", tower: Callable[[], Tower] = siglip, **changes: Any
) -> Parts:
    """Write the folder of a small model.

    Args:
        folder: to be made.
        form: which prompt form its vocabulary belongs to.
        weights: "shards" of safetensors for the language model, or "bin" for files of `torch.save` in all parts.
        tower: its vision tower.
        changes: entries of the top-level configuration that are to differ.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer(form)
    parts = _parts(len(tokenizer), tower())
    settings = {
        "llm": {
            **GENERIC,
            **parts.llm.config.to_dict(),
            "architectures": ["LlamaForCausalLM"],
            "rope_theta": 10000.0,
            "rope_scaling": None,
        },
        "vision_tower": {**GENERIC, **parts.tower.config},
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
        "vision_tower": parts.tower.state,
        "mm_projector": projector,
    }
    sharded = {"llm": True, "vision_tower": parts.tower.sharded, "mm_projector": False}
    for name, state in states.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(settings[name]))
        _write(folder / name, {key: value.contiguous() for key, value in state.items()}, weights, sharded=sharded[name])
    tokenizer.save_pretrained(folder / "llm")
    (folder / "vision_tower" / "preprocessor_config.json").write_text(json.dumps(parts.tower.preprocessor))
    top = {
        "_name_or_path": "./vlm",
        "architectures": ["LlavaLlamaModel"],
        "drop_path_rate": 0.0,
        "hidden_size": 32,
        "image_aspect_ratio": "resize",
        "interpolate_mode": "linear",
        "llm_cfg": {**settings["llm"], "_name_or_path": "./llm"},
        "mm_hidden_size": parts.tower.config["hidden_size"],
        "mm_projector_cfg": {**settings["mm_projector"], "_name_or_path": "./mm_projector"},
        "mm_projector_lr": None,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        **parts.tower.selected,
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


def _parts(vocabulary: int, tower: Tower) -> Parts:
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
    llm = LlamaForCausalLM(text).eval()
    width = 4 * tower.config["hidden_size"]
    projector = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, 32))
    for part in (llm, projector):
        part.load_state_dict(randomised(part.state_dict()))
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
