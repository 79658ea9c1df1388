"""How work is captured and replayed on each type of device. Only CUDA can; a test puts a double in for the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

__all__ = ["RECORDERS", "CudaRecorder", "Recorder"]


class Recorder(Protocol):
    """Captures work on one device."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work` without effect on any tensor that lives outside it but its outputs, and return what repeats it."""

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Inside, replays and copies out of their results follow those of every other stream."""

    def settle(self) -> None:
        """Wait until all of them are done, so that what they read may be given back."""


class CudaRecorder:
    """Captures CUDA graphs. All graphs of one recorder share a memory pool, so no two of them may run at once.

    Args:
        device: where all work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: Any = torch.cuda.Stream(device)
        self._pool: Any = torch.cuda.graph_pool_handle()
        self._done: Any = torch.cuda.Event()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Recorder`; `work` runs once before it is captured, because libraries set themselves up on first use."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                work()
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # Only this thread's own calls can spoil the capture; others may allocate meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        return graph.replay  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """See `Recorder`."""
        with torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            try:
                yield
            finally:
                self._done.record(stream)

    def settle(self) -> None:
        """See `Recorder`."""
        self._done.synchronize()


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}
"""What captures work, by type of device."""
