"""Compressors of random weights, which choose as decidedly as trained ones."""

from __future__ import annotations

from typing import Any

import torch

from foveate import ConvCompressor
from foveate.explain.identity import ModelIdentity, identity
from foveate.explain.network import CompressorConfig

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
