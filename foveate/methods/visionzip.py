"""VisionZip: keep dominant tokens, and merge the others into contextual ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.errors import OptionError
from foveate.method import ranking
from foveate.methods._attention import check_attention
from foveate.methods._features import FeatureMethod, merged_into, unit_rows, where
from foveate.methods.registry import register
from foveate.plan import DROPPED
from foveate.view import View

__all__ = ["VisionZip"]


@register
@dataclass(frozen=True)
class VisionZip(FeatureMethod):
    """Keeps the tokens that the vision tower attends to most, and merges the others into a few evenly spaced ones; needs no question.

    Paper: "VisionZip: Longer is Better but Not Necessary in Vision Language Models", https://arxiv.org/abs/2412.04467. Dominant tokens
    are those that receive the most attention (as in `TowerAttention`). Of the others, in their order, evenly spaced ones become
    contextual tokens, and each of the rest is merged into the contextual token that it resembles most, by cosine.

    Other than in the paper, tokens are compared by their features after projection, not by the tower's attention keys, which no signal
    gives; and a contextual token becomes the plain mean of itself and all that it takes in, where the authors' code adds the mean of
    these to it. The fine-tuned variant is not part of it. Among equals the lower index comes first; frames of a video and crops of an
    image are one set of tokens.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
        contextual: the share of the budget that is contextual, in [0, 1], rounded half up. The paper keeps 10 such tokens of 64, 20 of
            128 and 30 of 192. If it comes to no token, the others are dropped.

    Raises:
        OptionError: `contextual` is outside its range.
    """

    contextual: float = 10 / 64

    def __post_init__(self) -> None:
        super().__post_init__()
        share = self.contextual
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise OptionError(f"contextual={share!r} must be a share of the budget in [0, 1]; the paper's is {10 / 64}, 10 tokens of 64")

    @property
    def needs(self) -> frozenset[str]:
        """Tower attention unless all kept tokens are contextual, and projected features at a later layer."""
        return super().needs | ({"tower_attention"} if self.contextual < 1 else set())

    def targets(self, features: Tensor, views: Sequence[View], keep: int) -> tuple[Tensor, int]:
        """Plan targets (b, n), and how many tokens are merged: all that are not kept, or none without contextual tokens."""
        batch, tokens = features.shape[:2]
        contextual = math.floor(self.contextual * keep + 0.5)
        others = tokens - (keep - contextual)
        dominant = self._dominant(views, keep - contextual, features.device)
        rest = where(torch.ones(batch, tokens, dtype=torch.bool, device=features.device).scatter_(1, dominant, False), others)
        if not contextual:
            return torch.full((batch, tokens), DROPPED, device=features.device).scatter_(1, dominant, dominant), 0
        centres = slice(0, others // contextual * contextual, others // contextual)
        free = torch.ones(1, others, dtype=torch.bool, device=features.device)
        free[:, centres] = False
        left = rest.index_select(1, where(free, others - contextual)[0])
        targets = merged_into(unit_rows(features), rest[:, centres], left)
        return targets.scatter_(1, dominant, dominant), tokens - keep

    def _dominant(self, views: Sequence[View], count: int, device: torch.device) -> Tensor:
        """The tokens (b, count) that receive the most attention."""
        if self.contextual == 1:
            return torch.empty(len(views), 0, dtype=torch.long, device=device)
        attention = torch.stack([view.signal("tower_attention") for view in views])
        return ranking(check_attention(attention, views, "tower_attention"))[:, :count]
