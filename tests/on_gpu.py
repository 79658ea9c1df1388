"""What tests share that compare a GPU with the CPU."""

from __future__ import annotations

import dataclasses

import torch

from foveate import Method

__all__ = ["ROTARY_TOLERANCE", "same_everywhere"]

ROTARY_TOLERANCE = 256 * torch.finfo(torch.float32).eps
"""For logits of a float64 model: transformers computes rotary cosines and sines in float32 whatever the model's precision, and devices
round them differently. `test_compress.py` measures what one rounding of these tables does to the logits: up to 100 times as much."""


def same_everywhere(method: Method) -> Method:
    """The method with options that do not depend on the device."""
    automatic = getattr(method, "information", None) == "auto"
    return dataclasses.replace(method, information="exact") if automatic else method  # type: ignore[call-arg]
