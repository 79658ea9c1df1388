"""Asks a method which tokens stay: collects what it reads, checks the plans that it returns, and measures the time that both take."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from foveate.devices import Checks, require
from foveate.engine.clock import Spans
from foveate.engine.readings import Readings
from foveate.engine.slots import Slots
from foveate.engine.visual import VisualTokens
from foveate.errors import MethodError
from foveate.method import Method, brief
from foveate.plan import Plan
from foveate.view import View

__all__ = ["Decider", "checked_plans"]


class Decider:
    """Lets methods decide for the images of one prefill.

    Args:
        tokens: those of all images of the batch.
        twins: for each row the first row that is the same sample; they share one decision.
        readings: what the decoder computed that methods read.
        spent: time that methods have cost already, in the vision tower.
        checks: where conditions wait that are only known once the device has computed them.

    Attributes:
        spent: time in signals and decisions so far.
        deciding: whether a method is at work.
    """

    def __init__(self, tokens: VisualTokens, twins: Sequence[int], readings: Readings, spent: Spans, checks: Checks) -> None:
        self._tokens, self._readings, self._checks = tokens, readings, checks
        place = {(image.row, image.position): number for number, image in enumerate(tokens.images)}
        # For each image the one that is decided for.
        self._deciders = [place[twins[image.row], image.position] for image in tokens.images]
        self._owners = sorted(set(self._deciders))
        self.spent = spent
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
        self.deciding = True
        try:
            with self.spent.measure(states.device), torch.no_grad(), self._checks.collecting():
                by_slot, by_row = self._readings.collect(states, slots, method.needs)
                views = self._tokens.views(self._owners, states, by_slot, by_row, method.needs)
                images = [self._tokens.images[owner] for owner in self._owners]
                self._checks.names = {id(view): f"{brief(method)}: {image.name}" for view, image in zip(views, images, strict=True)}
                plans = checked_plans(method, views, method.plans(views))
        finally:
            self.deciding = False
            self._checks.names = {}
        self.spent.add(self._readings.clear())
        decided = dict(zip(self._owners, plans, strict=True))
        return [decided[owner] for owner in self._deciders]


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
        budget = method.remaining(len(view), view.grid[0], view.whole)
        if plan.tokens_after > budget or (method.exact and plan.tokens_after < budget):
            raise MethodError(
                f"{brief(method)}: its plan keeps {plan.tokens_after} of {len(view)} visual tokens, but its budget is {budget}; keep "
                "exactly self.budget(len(view), view.grid[0]), override budget(), or set exact = False if fewer may stay"
            )
        sound = plan.sound if _makes_maps(method) else None
        if sound is not None:
            require(sound, lambda: MethodError(f"{brief(method)}: what it gave Plan.deferred is no plan for its tokens; see Plan"), [view])
    return list(plans)


def _makes_maps(method: Method) -> bool:
    """Whether a method of somebody else makes its plans; foveate's are right by construction, and a check costs some ten launches."""
    kind = type(method)
    return not kind.__module__.startswith("foveate.") and (kind.plan is not Method.plan or kind.plans is not Method.plans)
