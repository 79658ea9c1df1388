"""Seconds in which a device computes: the time on the clock less the time in which it waits for the host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["BusyTime", "covered"]


class BusyTime:
    """Adds up the time in which at least one kernel or copy runs on a CUDA device, as torch's profiler records them.

    The profiler slows the host down and not the kernels, so this is no time of a wall clock. Work that is queued before a span of
    measuring or of pausing ends counts in that span.

    Args:
        device: where the work runs.

    Attributes:
        seconds: so far; `None` on any other device, and where the profiler records nothing, for example because it may not.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._profile: Any = None
        self.seconds: float | None = None

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Count what runs inside."""
        self._start()
        try:
            yield
        finally:
            self._stop()

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Do not count what runs inside, if anything is being counted."""
        running = self._profile is not None
        self._stop()
        try:
            yield
        finally:
            if running:
                self._start()

    def _start(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            self._profile = profile(activities=[ProfilerActivity.CUDA])
            self._profile.__enter__()

    def _stop(self) -> None:
        if self._profile is not None:
            torch.cuda.synchronize(self._device)
            self._profile.__exit__(None, None, None)
            spans = [
                (event.time_range.start, event.time_range.end)
                for event in self._profile.events()
                if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
            ]
            self._profile = None
            if spans:
                self.seconds = (self.seconds or 0.0) + covered(spans) / 1e6


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The length of the union of spans (start, end), because kernels of two streams may overlap."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        if end > reached:
            total += end - max(start, reached)
            reached = end
    return total
