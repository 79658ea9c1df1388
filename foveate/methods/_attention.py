"""The check of every method that ranks by attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError
from foveate.view import View

__all__ = ["check_attention"]


def check_attention(attention: Tensor, views: Sequence[View], name: str = "last_attention") -> Tensor:
    """Return the attention of one view, of any shape, or that of several views (b, n), if it can be ranked.

    Raises:
        InputError: it contains NaN, which would silently rank first; on an accelerator once the pass has been launched.
    """
    numbers = attention == attention
    require(
        numbers.all() if len(views) == 1 else numbers.flatten(1).all(1),
        lambda: InputError(f"{name} contains NaN, so it cannot be ranked; check the attention mask and the model's dtype"),
        views,
    )
    return attention
