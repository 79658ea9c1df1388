"""DART: keep the tokens that repeat a few pivot tokens least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError, OptionError
from foveate.method import Method, ranking
from foveate.methods._features import cosines
from foveate.methods.registry import register
from foveate.plan import DROPPED, Plan
from foveate.view import View

__all__ = ["DART"]


@register
@dataclass(frozen=True)
class DART(Method):
    """Keeps a few pivot tokens, and those that resemble them and the question's pivots least; reads keys, and no attention.

    Paper: "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More",
    https://arxiv.org/abs/2502.11494. Pivots are the visual tokens, and the question tokens, whose keys in the layer before have the
    largest L1 norm. Each pivot in turn, visual ones first, takes an equal share of the rest of the budget: the tokens not yet taken
    whose hidden states have the lowest cosine similarity to its own.

    The paper leaves open, and here holds: shares are rounded up, and the last pivots take what is left, so that the budget is met
    exactly; pivots take turns in the order of their norms; among equals the lower index comes first; hidden states are compared as they
    enter the layer, where the authors' code first applies the model's final norm.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; keys are those of the layer before it.
        clamp: as in `Method`.
        image_pivots: visual pivot tokens; they are kept. If `keep` is smaller, the first `keep` of them.
        text_pivots: question tokens that are pivots, or all if there are fewer.

    Raises:
        OptionError: a number of pivots is negative, or both are 0.
    """

    image_pivots: int = 4
    text_pivots: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_pivots", "text_pivots"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise OptionError(f"{name}={value!r} must be a number of tokens, 0 or more")
        if self.image_pivots + self.text_pivots == 0:
            raise OptionError("image_pivots and text_pivots are both 0; DART needs at least one pivot to compare with")

    @property
    def needs(self) -> frozenset[str]:
        """Keys, and what the pivots of the question need if there are any."""
        return frozenset({"keys"} | ({"question_keys", "question_states"} if self.text_pivots else set()))

    @torch.no_grad()
    def plan(self, view: View) -> Plan:
        """Decide for one image."""
        tokens, keep, device = len(view), self.budget(len(view), view.grid[0]), view.states.device
        if keep == tokens:
            return Plan.deferred(torch.arange(tokens, device=device), keep)
        own = self._strongest(view.signal("keys"), view)[: min(self.image_pivots, keep)]
        taken = torch.zeros(tokens, dtype=torch.bool, device=device).index_fill_(0, own, True)
        alike = cosines(self._pivots(view, own), _units(view.states, view))
        share = -(-(keep - len(own)) // len(alike))
        for number, row in enumerate(alike):
            mine = min(share, keep - len(own) - number * share)
            if mine <= 0:
                break
            least = torch.sort(row.masked_fill(taken, torch.inf), stable=True).indices[:mine]
            taken = taken.index_fill(0, least, True)
        places = torch.arange(tokens, device=device)
        return Plan.deferred(places.masked_fill(~taken, DROPPED), keep)

    def _pivots(self, view: View, own: Tensor) -> Tensor:
        """Hidden states (p, d) of all pivots, of length 1."""
        pivots = [view.states.index_select(0, own)]
        if self.text_pivots:
            asked = self._strongest(view.signal("question_keys"), view)[: self.text_pivots]
            pivots.append(view.signal("question_states").index_select(0, asked))
        return _units(torch.cat(pivots), view)

    def _strongest(self, keys: Tensor, view: View) -> Tensor:
        """Tokens by the descending L1 norm of their keys (n, key heads, c)."""
        norms = torch.linalg.vector_norm(keys.flatten(1), ord=1, dim=1, dtype=torch.float64)
        require((norms == norms).all(), lambda: _not_a_number("keys"), [view])
        return ranking(norms)


def _units(states: Tensor, view: View) -> Tensor:
    """States (n, d) of length 1, float64."""
    lengths = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float64)
    require((lengths < torch.inf).all(), lambda: _not_a_number("hidden states"), [view])
    return states / lengths.clamp(min=torch.finfo(torch.float64).tiny)


def _not_a_number(what: str) -> InputError:
    return InputError(f"the {what} of an image contain NaN or infinity, so DART cannot compare its tokens; check the model's dtype")
