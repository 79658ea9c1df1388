"""The check of every method that ranks by attention."""

from __future__ import annotations

from torch import Tensor

from foveate.errors import InputError

__all__ = ["check_attention"]


def check_attention(attention: Tensor, name: str = "last_attention") -> Tensor:
    """Return the attention, of any shape, if it can be ranked.

    Raises:
        InputError: it contains NaN, which would silently rank first.
    """
    if bool(attention.isnan().any()):
        raise InputError(f"{name} contains NaN, so it cannot be ranked; check the attention mask and the model's dtype")
    return attention
