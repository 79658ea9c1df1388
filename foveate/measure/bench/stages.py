"""The stages of one generation, told apart while it runs: `inside_tower` and `Timeline`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from foveate.engine.standins import StandIns
from foveate.families import family_of

__all__ = ["Timeline", "inside_tower"]


@contextlib.contextmanager
def inside_tower(model: nn.Module, around: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Enter `around()` whenever the model turns pixels into features: vision tower and projector.

    Args:
        model: a model of a known family.
        around: makes a context manager for each call.
    """
    family = family_of(model)
    backbone = family.backbone(model)
    stand_ins, busy = StandIns(backbone), False

    def watched(encode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal busy
        if busy:  # a method for videos that calls the one for images
            return encode(*args, **kwargs)
        busy = True
        try:
            with around():
                return encode(*args, **kwargs)
        finally:
            busy = False

    for name in family.encoders:
        if hasattr(backbone, name):
            stand_ins.put(name, watched)
    try:
        yield
    finally:
        stand_ins.remove()


class Timeline:
    """Points in time of work on one device: CUDA events there, which do not stop the stream, and a monotonic clock elsewhere.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._points: dict[str, Any] = {}
        self._spans: list[tuple[Any, Any]] = []

    def mark(self, name: str) -> None:
        """Remember now as `name`."""
        self._points[name] = self._now()

    @contextlib.contextmanager
    def span(self) -> Iterator[None]:
        """What happens inside counts for `inside`."""
        begin = self._now()
        yield
        self._spans.append((begin, self._now()))

    def seconds(self, start: str, end: str) -> float:
        """Seconds from one point to another; waits for the device to have passed the second one."""
        return self._between(self._points[start], self._points[end])

    def inside(self) -> float:
        """Seconds in all spans together."""
        return sum(self._between(begin, end) for begin, end in self._spans)

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, first: Any, last: Any) -> float:
        if self._device.type != "cuda":
            return float(last - first)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3
