"""Find weights that are not finite: training may not save them, and nothing may load them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["not_finite"]


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that hold NaN or an infinite number, with a single synchronisation of their device.

    Args:
        weights: tensors of any shape by name, on one device.
    """
    names = [name for name, value in weights.items() if value.is_floating_point()]
    if not names:
        return []
    sound = torch.stack([torch.isfinite(weights[name]).all() for name in names]).tolist()
    return [name for name, fine in zip(names, sound, strict=True) if not fine]
