"""The one clock of every time that foveate reports."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["Spans", "seconds"]


def seconds(device: torch.device) -> float:
    """Seconds on a monotonic clock, once all work queued on `device` is done; differences count what was really computed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Spans:
    """Spans of work on devices: between events on a GPU, which stop neither host nor stream, and on a monotonic clock elsewhere."""

    def __init__(self) -> None:
        self._spans: list[tuple[Any, Any]] = []

    @contextlib.contextmanager
    def measure(self, device: torch.device) -> Iterator[None]:
        """Add the work that is queued on `device` inside this context."""
        first = _now(device)
        try:
            yield
        finally:
            self._spans.append((first, _now(device)))

    def add(self, other: Spans) -> None:
        """Add the spans of another."""
        self._spans += other._spans

    @property
    def seconds(self) -> float:
        """All spans together; waits until the devices have passed their ends."""
        return sum(_between(first, last) for first, last in self._spans)


def _now(device: torch.device) -> Any:
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event


def _between(first: Any, last: Any) -> float:
    if isinstance(first, float):
        return float(last - first)
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3
