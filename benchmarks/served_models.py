"""Folders that the serving benchmarks serve: a model of a given shape with random weights, and models as stock vLLM reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from transformers import LlavaConfig, LlavaForConditionalGeneration

import foveate.demo
from foveate.files.records import ANYTHING, read_bytes, read_tensors
from foveate.files.writing import make_folder, write_whole

HIDDEN, LAYERS, WIDTH = 512, 8, 1376
"""Of the decoder with random weights: its states, its layers, and the inner states of their perceptrons."""


def random_llava(out: Path, seed: int = 0) -> Path:
    """Write a LLaVA of 29 M parameters with random weights, in bfloat16, with the embedded model's vision tower shape and words.

    An image has 576 tokens in 24 rows.
    """
    source = foveate.demo.path()
    config = ANYTHING.read(source / "config.json").raw
    config["text_config"] |= {
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "intermediate_size": WIDTH,
        "num_attention_heads": HIDDEN // 64,
        "num_key_value_heads": HIDDEN // 64,
        "head_dim": 64,
    }
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(LlavaConfig.from_dict(config)).to(torch.bfloat16)
    named = {name.removeprefix("model."): value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    decoder = "language_model."
    weights = {name.replace(decoder, f"{decoder}model.") if name.startswith(decoder) else name: named[name] for name in named}
    return _written(source, out, config, weights)


def wrapped(source: Path, out: Path) -> Path:
    """Write the same model with the names of weights that stock vLLM expects, which transformers since 5.23 no longer writes."""
    return _written(source, out, ANYTHING.read(source / "config.json").raw, read_tensors(source / "model.safetensors"))


def _written(source: Path, out: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    make_folder(out)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja"):
            write_whole(out / file.name, read_bytes(file))
    write_whole(out / "config.json", json.dumps(config))
    tower, inner = "vision_tower.", "vision_tower.vision_model."
    names = {name: inner + name.removeprefix(inner).removeprefix(tower) if name.startswith(tower) else name for name in weights}
    tensors = {names[name]: value.contiguous() for name, value in weights.items()}
    write_whole(out / "model.safetensors", save(tensors, {"format": "pt"}))
    return out


def parameters(folder: Path) -> int:
    """How many a model has."""
    return sum(value.numel() for value in read_tensors(folder / "model.safetensors").values())


def shape(folder: Path) -> dict[str, Any]:
    """What the results say of a model."""
    config = ANYTHING.read(folder / "config.json").raw
    part = config["text_config"]
    return {
        "parameters": parameters(folder),
        "hidden_size": part["hidden_size"],
        "layers": part["num_hidden_layers"],
        "visual_tokens": config["image_seq_length"],
        "dtype": config.get("dtype"),
    }
