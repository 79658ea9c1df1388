"""The check that every method which ranks by attention makes."""

from __future__ import annotations

from torch import Tensor

from foveate.errors import InputError

__all__ = ["check_attention"]


def check_attention(attention: Tensor, name: str = "last_attention") -> Tensor:
    """The attention itself, any shape.

    Raises:
        InputError: it holds NaN, which would rank first without a word.
    """
    if bool(attention.isnan().any()):
        raise InputError(f"{name} holds NaN, so it has no order; check the attention mask and the model's dtype")
    return attention
