"""Oracle: keep the tokens that the answer is known to rest on, the upper bound for every prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from foveate.devices import require, upload
from foveate.errors import InputError, OptionError
from foveate.explain.relevance.result import Relevance
from foveate.method import SAVING
from foveate.methods.mass import MassMethod
from foveate.methods.registry import register
from foveate.plan import Plan
from foveate.view import View

__all__ = ["Oracle"]


@register
@dataclass(frozen=True)
class Oracle(MassMethod):
    """Keeps the tokens with the highest true relevance, which you must pass: the upper bound for `Explainer`, from Python only.

    The oracle of https://arxiv.org/abs/2506.01097. Relevance takes the answer and a backward pass, so this saves nothing; it shows what a
    prediction could reach. Pass the relevance of one batch, in the order of rows and prompts; it fits no other batch. Rows that are
    the same sample count once. Among equal relevance, the lower index stays.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before.
        clamp: as in `Method`.
        relevance: what `foveate.relevance` returned for the next batch, or one tensor (n,) per image.
        mass: as in `MassMethod`: share of the positive relevance that the kept tokens hold, at most `keep` of them; `None` keeps
            exactly `keep`.
        at_least: as in `MassMethod`: the fewest tokens that `mass` keeps.

    Raises:
        OptionError: `relevance` is missing.
        InputError: in the prefill: the number or size of the images differs from that of the relevance, or it contains NaN.
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
        """Decide for all images of the batch whose relevance was passed."""
        return self._best(views, self._all_scores(views))

    def importance(self, scores: Tensor) -> Tensor:
        """The relevance where it is positive; a token that speaks against the answer holds none of it."""
        return scores.clamp(min=0)

    def _all_scores(self, views: Sequence[View]) -> list[Tensor]:
        known = self._known()
        if not views:
            return []
        if len(known) != len(views):
            raise InputError(
                f"the relevance of {len(known)} images was passed for a batch of {len(views)}; "
                f"pass that of this batch, and count rows that are the same sample once"
            )
        return [self._relevance(view, own, number) for number, (view, own) in enumerate(zip(views, known, strict=True))]

    def _relevance(self, view: View, relevance: Tensor, number: int) -> Tensor:
        cells = sum(frames * rows * columns for frames, rows, columns in view.parts)
        if relevance.shape != (cells,):
            raise InputError(
                f"the relevance of image {number} has shape {tuple(relevance.shape)}, but its tokens fill {cells} cells: {view.parts}"
            )
        numbers = (relevance == relevance).all()
        require(numbers, lambda: InputError(f"the relevance of image {number} contains NaN, so it cannot be ranked"), [view])
        own = upload(relevance, view.states.device)
        return own if view.index is None else own[view.index]

    def _known(self) -> list[Tensor]:
        given = self.relevance
        return [image.mean for image in given.images] if isinstance(given, Relevance) else [torch.as_tensor(own) for own in given or ()]
