"""FastV: keep the tokens that the last prompt token looks at most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.method import Method
from foveate.methods._attention import check_attention
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["FastV"]


@register
@dataclass(frozen=True)
class FastV(Method):
    """Keeps the tokens that the last prompt token attends to most, and drops the rest.

    Paper: "An Image is Worth 1/2 Tokens After Layer 2", https://arxiv.org/abs/2403.06764. Its default is layer 2; its
    half of the tokens is `keep=0.5` here. Equal attention: the lower index stays.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: decoder layer before which tokens leave; the attention is that of the layer before.
        clamp: as in `Method`.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The last prompt token's attention."""
        return frozenset({"last_attention"})

    def score(self, view: View) -> Tensor:
        """The last prompt token's attention to each token, shape (n,)."""
        return check_attention(view.signal("last_attention"))
