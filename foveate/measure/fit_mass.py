"""Finds the mass at which a method keeps a wanted number of tokens on average, over a user's own images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.compression import compress
from foveate.engine.identity import ModelIdentity
from foveate.errors import InputError, UsageError
from foveate.method import Method
from foveate.methods.mass import MassMethod, smallest
from foveate.methods.registry import methods
from foveate.plan import Plan
from foveate.view import View

__all__ = ["FittedMass", "fit_mass"]

STEPS = 1_000_000
"""A mass is a whole number of 1 / STEPS, so that it is written in six digits."""


@dataclass(frozen=True)
class FittedMass:
    """A method whose `mass` was fitted to images.

    Attributes:
        method: with its `mass`.
        average: tokens that it keeps of one of the images, on average.
        numbers: how many it keeps of each image, in order.
    """

    method: MassMethod
    average: float
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class _Listener(Method):
    """Keeps all tokens, and notes how the importance of each image accumulates."""

    keep: int | float = 1.0
    inner: Any = None
    seen: list[tuple[Tensor, int, int]] = field(default_factory=list)

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs  # type: ignore[no-any-return]

    def check(self, identify: Callable[[], ModelIdentity]) -> None:
        self.inner.check(identify)

    def stages(self, layers: int) -> tuple[Method, ...]:
        stages = self.inner.stages(layers)
        if len(stages) > 1:
            raise UsageError(
                f"{self.inner} acts in {len(stages)} stages, and what a later one sees depends on the mass of the first; "
                "fit a method that acts once, or give it one stage"
            )
        return (replace(self, inner=stages[0], layer=stages[0].layer),)

    def plan(self, view: View) -> Plan:
        return self.plans([view])[0]

    def plans(self, views: Sequence[View]) -> list[Plan]:
        bounds = [(self.inner.fewest(len(view), view.grid[0]), self.inner.budget(len(view), view.grid[0])) for view in views]
        self.seen.extend((curve.cpu(), *bound) for curve, bound in zip(self.inner.curves(views), bounds, strict=True))
        return [Plan.deferred(torch.arange(len(view), device=view.states.device), len(view)) for view in views]


def fit_mass(model: nn.Module, method: MassMethod, batches: Iterable[Mapping[str, Any]], tokens: float) -> FittedMass:
    """The method with the `mass` at which it keeps a wanted number of tokens per image on average.

    Each batch runs through the uncompressed model once; the mass is then found from the importance of the tokens alone.

    Args:
        model: as `foveate.compress` takes it, without a handle.
        method: with its bounds, `keep` (the most) and `at_least`; its `mass` is replaced.
        batches: inputs of the model, as the processor returns them, with the prompts and images of the real use.
        tokens: wanted average number per image; of a video, for all its frames.

    Returns:
        the method and what it keeps of these images: the average is the nearest one to `tokens` that a mass reaches.

    Raises:
        UsageError: the importance of the method's tokens is no mass, or it acts in several stages.
        InputError: there is no image, or the bounds exclude the wanted average.
        FoveateError: as `compress`.
    """
    if not isinstance(method, MassMethod):
        able = ", ".join(kind.__name__ for kind in methods().values() if issubclass(kind, MassMethod))
        raise UsageError(f"fit_mass() takes a method whose budget can follow the image ({able}); got {method}")
    if isinstance(tokens, bool) or not isinstance(tokens, int | float) or not 1 <= tokens < math.inf:
        raise InputError(f"tokens={tokens!r} must be a number of tokens per image, at least 1")
    listener = _Listener(inner=method)
    with compress(model, listener), torch.no_grad():
        for batch in batches:
            model(**batch)
    if not listener.seen:
        raise InputError("the batches show no image, so there is nothing to fit; pass prompts with images")
    return _fitted(listener.seen, tokens, method)


def _fitted(seen: Sequence[tuple[Tensor, int, int]], tokens: float, method: MassMethod) -> FittedMass:
    curves = [curve for curve, _, _ in seen]

    def numbers(step: int) -> tuple[int, ...]:
        wanted = smallest(curves, step / STEPS)
        return tuple(min(max(number, low), top) for number, (_, low, top) in zip(wanted, seen, strict=True))

    fewest, most = (sum(numbers(step)) / len(seen) for step in (1, STEPS))
    if not fewest <= tokens <= most:
        raise InputError(
            f"an average of {tokens} tokens cannot be reached: with keep={method.keep!r} and at_least={method.at_least!r} these images "
            f"keep {fewest:.1f} to {most:.1f}; change the bounds or the average"
        )
    low, high = 1, STEPS
    while low < high:  # the smallest mass that reaches the average
        middle = (low + high) // 2
        low, high = (low, middle) if sum(numbers(middle)) >= tokens * len(seen) else (middle + 1, high)
    step = min((low, max(1, low - 1)), key=lambda each: abs(sum(numbers(each)) / len(seen) - tokens))
    found = numbers(step)
    return FittedMass(replace(method, mass=step / STEPS), sum(found) / len(found), found)
