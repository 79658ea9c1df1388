"""TowerAttention: keep the tokens that the vision tower attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.methods._attention import check_attention
from foveate.methods.mass import MassMethod
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["TowerAttention"]


@register
@dataclass(frozen=True)
class TowerAttention(MassMethod):
    """Keeps the tokens that receive the most attention in the vision tower, and drops the rest; needs no question.

    The selection of FasterVLM, https://arxiv.org/abs/2412.01818v1 (later versions of that paper propose another method, VisPruner), and
    that of the dominant tokens of `VisionZip`, https://arxiv.org/abs/2412.04467. A token's score is the attention that the class token
    pays it, mean over heads; in a tower without a class token, as VisionZip has it, the mean of what all tokens pay it. A token made
    from several patches has their mean. The tower's layer is the one whose output the language model receives, or the last one before
    it that attends to the whole image. Among equal attention, the lower index stays.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the papers' is 0, the language model's input.
        clamp: as in `Method`.
        mass: as in `MassMethod`: share of that attention that the kept tokens hold, at most `keep` of them; `None` keeps exactly `keep`.
        at_least: as in `MassMethod`: the fewest tokens that `mass` keeps.
    """

    layer: int = 0

    @property
    def needs(self) -> frozenset[str]:
        """The attention that each token receives in the vision tower."""
        return frozenset({"tower_attention"})

    def score(self, view: View) -> Tensor:
        """The attention that each token receives, shape (n,)."""
        return check_attention(view.signal("tower_attention"), [view], "tower_attention")
