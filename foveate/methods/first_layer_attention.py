"""FirstLayerAttention: the input of Explainer's network, without the network."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.methods._attention import check_attention
from foveate.methods._first_layer import check_layer, check_question
from foveate.methods.mass import MassMethod
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["FirstLayerAttention"]


@register
@dataclass(frozen=True)
class FirstLayerAttention(MassMethod):
    """Keeps the tokens that the question attends to most in the first decoder layer: `Explainer` without its network, the lower bound.

    The baseline of https://arxiv.org/abs/2506.01097. Attention is averaged over heads and over the text after the last visual token, as
    defined for `Explainer`. Among equal attention, the lower index stays.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: 0, the language model's input.
        clamp: as in `Method`.
        mass: as in `MassMethod`: share of that attention that the kept tokens hold, at most `keep` of them; `None` keeps exactly `keep`.
        at_least: as in `MassMethod`: the fewest tokens that `mass` keeps.

    Raises:
        LayerError: `layer` is not 0.
    """

    keep: int | float = 0.5
    layer: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer(self)

    @property
    def needs(self) -> frozenset[str]:
        """The attention of the question tokens, one row per head."""
        return frozenset({"head_attention"})

    def score(self, view: View) -> Tensor:
        """The question's mean attention to each token, shape (n,)."""
        check_question([view])
        return check_attention(view.signal("head_attention"), [view], "head_attention").mean(0)
