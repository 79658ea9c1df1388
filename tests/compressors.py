"""Compressors of random weights, which choose as decidedly as trained ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from foveate import ConvCompressor
from foveate.engine.identity import ModelIdentity, identity
from foveate.explain.compressor.compressor import SETTINGS, WEIGHTS
from foveate.explain.compressor.network import CompressorConfig

NOBODY = ModelIdentity("nobody", "nobody", hidden=8, layers=2, heads=3, vocabulary=9, weights=None)


def untrained(model: Any = None, *, seed: int = 0, **options: Any) -> ConvCompressor:
    """For a model, or for none; options are those of `CompressorConfig`, small channels unless given."""
    torch.manual_seed(seed)
    own = NOBODY if model is None else identity(model)
    options = {"channels": (8, 16), **options}
    compressor = ConvCompressor(CompressorConfig(heads=own.heads, **options), own)
    with torch.no_grad():
        for value in compressor.parameters():
            value.mul_(3).add_(0.2 * torch.randn_like(value))
    return compressor.eval()


def in_two_files(folder: Path) -> Path:
    """As earlier versions wrote a compressor: settings in a file of their own, with a hash of the other."""
    with safe_open(folder / WEIGHTS, "pt") as opened:
        settings = json.loads(opened.metadata()["foveate"])
        weights = save({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    (folder / WEIGHTS).write_bytes(weights)
    (folder / SETTINGS).write_text(json.dumps({**settings, "sha256": hashlib.sha256(weights).hexdigest()}))
    return folder
