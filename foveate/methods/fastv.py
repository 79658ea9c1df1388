"""FastV: keep the tokens that the last prompt token attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.methods._attention import check_attention
from foveate.methods.mass import MassMethod
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["FastV"]


@register
@dataclass(frozen=True)
class FastV(MassMethod):
    """Keeps the tokens that the last prompt token attends to most, and drops the rest.

    Paper: "An Image is Worth 1/2 Tokens After Layer 2", https://arxiv.org/abs/2403.06764. Its defaults are layer 2 and half
    of the tokens, here `keep=0.5`. Among equal attention, the lower index stays.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the attention is that of the layer before it.
        clamp: as in `Method`.
        mass: as in `MassMethod`: share of that attention that the kept tokens hold, at most `keep` of them; `None` keeps exactly `keep`.
        at_least: as in `MassMethod`: the fewest tokens that `mass` keeps.
    """

    @property
    def needs(self) -> frozenset[str]:
        """The last prompt token's attention."""
        return frozenset({"last_attention"})

    def score(self, view: View) -> Tensor:
        """The last prompt token's attention to each token, shape (n,)."""
        return check_attention(view.signal("last_attention"), [view])
