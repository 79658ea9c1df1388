"""V2Drop: take out the tokens that the last layer changed least, in stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError
from foveate.methods._staged import StagedMethod
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["V2Drop"]


@register
@dataclass(frozen=True)
class V2Drop(StagedMethod):
    """Takes tokens out in several stages, each time those that the layer before changed least; needs no question and no attention.

    Paper: "Variation-aware Vision Token Dropping for Faster Large Vision-Language Models", https://arxiv.org/abs/2509.01552. The change
    of a token is the L2 distance of its hidden states before and after a layer. The stages are those of the authors' code: before
    layers 3, 17 and 22 of 32.

    The code halves the tokens twice and then keeps one; here all stages keep the same share of their tokens, so that `keep` remain
    after the last. At equal `keep` V2Drop computes more than a method that acts once. Among equal changes the lower index stays.

    Args:
        keep: visual tokens that remain per image after the last stage (int), or the share of the image's tokens (float).
        layer: no stage acts before an earlier layer than this one, which is at least 1.
        clamp: as in `Method`.
        at: layers of the stages: ints are decoder layers, floats in (0, 1) shares of the model's layers.

    Raises:
        OptionError: `at` names no stage, or something else than layers and shares.
    """

    at: tuple[int | float, ...] = (3 / 32, 17 / 32, 22 / 32)

    @property
    def needs(self) -> frozenset[str]:
        """The hidden states before the layer before."""
        return frozenset({"earlier_states"})

    @torch.no_grad()
    def score(self, view: View) -> Tensor:
        """How far the layer before moved each token, shape (n,), float64."""
        moved = torch.linalg.vector_norm(view.states.double() - view.signal("earlier_states").double(), dim=1)
        require((moved == moved).all(), _not_a_number, [view])
        return moved


def _not_a_number() -> InputError:
    return InputError("the hidden states of an image contain NaN or infinity, so V2Drop cannot compare them; check the model's dtype")
