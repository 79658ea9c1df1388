"""Asks a method which tokens stay: collects what it reads, checks the plans that it returns, and measures the time that both take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.engine.clock import seconds
from foveate.engine.readings import Readings
from foveate.engine.slots import Slots
from foveate.engine.tracking import TrackedImage
from foveate.errors import MethodError
from foveate.method import Method, brief
from foveate.plan import Plan
from foveate.view import View

__all__ = ["Decider", "checked_plans"]


class Decider:
    """Lets methods decide for the images of one prefill.

    Args:
        images: all images of the batch.
        twins: for each row the first row that is the same sample; they share one decision.
        readings: what the decoder computed that methods read.
        spent: seconds that methods have cost already, in the vision tower.

    Attributes:
        seconds: time in signals and decisions so far.
        deciding: whether a method is at work.
    """

    def __init__(self, images: Sequence[TrackedImage], twins: Sequence[int], readings: Readings, spent: float) -> None:
        self._images, self._twins, self._readings = images, twins, readings
        self.seconds = spent
        self.deciding = False

    def decide(self, method: Method, states: Tensor, slots: Slots) -> list[Plan]:
        """A plan for each image, in order.

        Args:
            method: decides; it sees each sample once.
            states: (b, n, d), what enters the layer that it acts before.
            slots: the present sequence.

        Raises:
            MethodError: its plans are not what they must be.
        """
        start = seconds(states.device)
        owners = [image for image in self._images if self._twins[image.row] == image.row]
        self.deciding = True
        try:
            with torch.no_grad():
                by_slot, by_row = self._readings.collect(states, slots, method.needs)
                views = [image.view(states, by_slot, by_row[image.row], method.needs) for image in owners]
                plans = checked_plans(method, views, method.plans(views))
        finally:
            self.deciding = False
        decided = {(image.row, image.position): plan for image, plan in zip(owners, plans, strict=True)}
        self.seconds += seconds(states.device) - start + self._readings.clear()
        return [decided[self._twins[image.row], image.position] for image in self._images]


def checked_plans(method: Method, views: Sequence[View], plans: Sequence[Plan]) -> list[Plan]:
    """What `method.plans(views)` returned, checked for what `tokens_after` promises.

    Raises:
        MethodError: the number of plans, the length of one, or the number of tokens that it keeps is wrong.
    """
    if not isinstance(plans, Sequence) or len(plans) != len(views) or not all(isinstance(plan, Plan) for plan in plans):
        found = f"{len(plans)} values" if isinstance(plans, Sequence) else f"a {type(plans).__name__}"
        raise MethodError(f"{brief(method)}: plans() returned {found} for {len(views)} images, expected one Plan for each")
    for view, plan in zip(views, plans, strict=True):
        if len(plan) != len(view):
            raise MethodError(f"{brief(method)}: its plan is for {len(plan)} visual tokens, but the view has {len(view)}")
        budget = method.budget(len(view), view.grid[0])
        if plan.tokens_after > budget or (method.exact and plan.tokens_after < budget):
            raise MethodError(
                f"{brief(method)}: its plan keeps {plan.tokens_after} of {len(view)} visual tokens, but its budget is {budget}; keep "
                "exactly self.budget(len(view), view.grid[0]), override budget(), or set exact = False if fewer may stay"
            )
    return list(plans)
