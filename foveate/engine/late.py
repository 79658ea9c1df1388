"""A report that is made when somebody reads it, so that no prefill waits for what it says."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.engine.clock import Spans
from foveate.engine.tracking import TrackedImage, report_of
from foveate.report import Report

__all__ = ["LateReport", "Outcome"]


class LateReport:
    """A report on its first reading; the same one to every thread. A copy or pickle holds the report itself.

    Args:
        make: makes it, once.
    """

    def __init__(self, make: Callable[[], Report]) -> None:
        self._make: Callable[[], Report] | None = make
        self._made: Report | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, report: Report) -> LateReport:
        """One that is made already."""
        return cls(functools.partial(_same, report))

    def read(self) -> Report:
        """The report; on an accelerator this waits until the pass is over."""
        with self._lock:
            if self._make is not None:
                self._made, self._make = self._make(), None  # what it was made from is needed no longer
        assert self._made is not None
        return self._made

    def __reduce__(self) -> tuple[Any, ...]:
        return LateReport.of, (self.read(),)


def _same(report: Report) -> Report:
    return report


@dataclass
class Outcome:
    """What a prefill leaves behind for its report.

    Args:
        images: all of the batch, after the last cut; their signals are not kept.
        bytes_before: of the caches without compression.
        bytes_after: of the caches.
        spent: time in signals and decisions.
        input_columns: (b, k), what each position of the last sequence stands for.
    """

    images: Sequence[TrackedImage]
    bytes_before: int
    bytes_after: int
    spent: Spans
    input_columns: Tensor

    def late(self) -> LateReport:
        """The report of it."""
        images = [(image.row, image.position, image.tokens, image.stages) for image in self.images]
        made = _event(self.input_columns.device)

        def make() -> Report:
            if made is not None:
                made.synchronize()  # it may be read in another stream than that of the pass
            columns = tuple(tuple(row) for row in self.input_columns.tolist())
            found = tuple(report_of(*image) for image in images)
            return Report(found, self.bytes_before, self.bytes_after, self.spent.seconds, columns)

        self.images = ()
        return LateReport(make)


def _event(device: torch.device) -> Any:
    """A point in the work of a GPU that is now queued; `None` elsewhere."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event
