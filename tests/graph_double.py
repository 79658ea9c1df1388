"""What stands in for CUDA graphs on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch


class Double:
    """Captures on a CPU: a replay runs the same work on the same tensors, which is all that a graph does."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def settle(self) -> None:
        """Everything is done at once."""
