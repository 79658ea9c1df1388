"""Asks a method which tokens stay: collects what it reads, checks the plans that it returns, and measures the time that both take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.engine.clock import seconds
from foveate.engine.readings import Readings
from foveate.engine.slots import Slots
from foveate.engine.tracking import TrackedImage
from foveate.method import Method, checked_plans
from foveate.plan import Plan

__all__ = ["Decider"]


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
