"""Finding weights that are not finite, which neither training may keep nor anybody load."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["not_finite"]


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or an infinite number; their device is waited for once.

    Args:
        weights: tensors of any shapes by name, on one device.
    """
    names = [name for name, value in weights.items() if value.is_floating_point()]
    if not names:
        return []
    sound = torch.stack([torch.isfinite(weights[name]).all() for name in names]).tolist()
    return [name for name, fine in zip(names, sound, strict=True) if not fine]
