"""Oracle: keep what the answer is known to rest on, the upper bound of what a prediction can reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foveate.errors import InputError, OptionError
from foveate.explain.relevance.result import Relevance
from foveate.method import SAVING, Method, ranking
from foveate.methods.registry import register
from foveate.plan import Plan
from foveate.view import View

__all__ = ["Oracle"]


@register
@dataclass(frozen=True)
class Oracle(Method):
    """Keeps the tokens of the highest true relevance, which must be given: the upper bound for `Explainer`, from Python only.

    The oracle of https://arxiv.org/abs/2506.01097. Relevance takes the answer and a backward pass, so this saves nothing; it tells what a
    prediction could reach. It is given for one batch, in the order of rows and prompts, and fits no other; rows that are the same
    sample count once. Equal relevance: the lower index stays.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: decoder layer before which tokens leave.
        clamp: as in `Method`.
        relevance: what `foveate.relevance` returned for the prompts that follow, or one tensor (n,) per image.

    Raises:
        OptionError: there is no `relevance`.
        InputError: in the prefill: the images are not as many, or not as large, as the relevance says, or it holds NaN.
    """

    keep: int | float = 0.5
    layer: int = 0
    relevance: Relevance | Sequence[Tensor] | None = field(
        default=None, repr=False, compare=False, metadata={SAVING: "save it with Relevance.save, load it, and make the oracle from it"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relevance is None:
            raise OptionError(
                "the oracle needs the true relevance, which only a program can pass: "
                "Oracle(keep=0.5, relevance=foveate.relevance(model, inputs))"
            )

    def plan(self, view: View) -> Plan:
        """Decide for the only image."""
        return self.plans([view])[0]

    def plans(self, views: Sequence[View]) -> list[Plan]:
        """Decide for all images of the batch that the relevance is of."""
        known = self._known()
        if not views:
            return []
        if len(known) != len(views):
            raise InputError(
                f"relevance of {len(known)} images was given for a batch of {len(views)}; "
                f"give that of this very batch, and count rows that are the same sample once"
            )
        return [self._plan(view, own, number) for number, (view, own) in enumerate(zip(views, known, strict=True))]

    def _plan(self, view: View, relevance: Tensor, number: int) -> Plan:
        cells = sum(frames * rows * columns for frames, rows, columns in view.parts)
        if relevance.shape != (cells,):
            raise InputError(f"relevance of image {number} has shape {tuple(relevance.shape)}, its tokens fill {cells} cells: {view.parts}")
        if bool(relevance.isnan().any()):
            raise InputError(f"relevance of image {number} holds NaN, so it has no order")
        budget = self.budget(len(view), view.grid[0])
        own = relevance.to(view.states.device)
        own = own if view.index is None else own[view.index]
        return Plan.keep(ranking(own)[:budget], len(view))

    def _known(self) -> list[Tensor]:
        given = self.relevance
        return [image.mean for image in given.images] if isinstance(given, Relevance) else [torch.as_tensor(own) for own in given or ()]
