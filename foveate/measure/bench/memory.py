"""Peak memory of a piece of work, and the memory available for it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["CPU_TOOL", "CUDA_TOOL", "Memory", "free_memory", "out_of_memory", "peak_memory"]

CUDA_TOOL = "torch.cuda.max_memory_allocated: tensors only, without the CUDA context and the allocator's reserve"
CPU_TOOL = (
    "VmHWM of /proc/self/status, reset through clear_refs: resident pages of the whole process; small tensors may hide in what the C "
    "library had kept, so read differences of some megabytes as nothing"
)


@dataclass
class Memory:
    """Peak memory in bytes; `None` where the system does not report it.

    Attributes:
        before: in use before the work, weights included.
        peak: the maximum in use during the work.
        tool: how it was measured, with its limits.
    """

    before: int | None = None
    peak: int | None = None
    tool: str | None = None

    @property
    def added(self) -> int | None:
        """What the work needed in addition."""
        return None if self.peak is None or self.before is None else self.peak - self.before


@contextlib.contextmanager
def peak_memory(device: torch.device) -> Iterator[Memory]:
    """Measure the work inside; the result is complete when the block ends."""
    gc.collect()
    memory = Memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        memory.tool, memory.before = CUDA_TOOL, torch.cuda.memory_allocated(device)
        yield memory
        memory.peak = torch.cuda.max_memory_allocated(device)
    elif device.type == "cpu" and _reset_peak():
        memory.tool, memory.before = CPU_TOOL, _status("VmRSS")
        yield memory
        memory.peak = _status("VmHWM")
    else:
        yield memory


def free_memory(device: torch.device) -> int | None:
    """Bytes available for new tensors on a device; `None` if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    listing = Path("/proc/meminfo")
    if device.type != "cpu" or not listing.exists():
        return None
    lines = dict(line.split(":", 1) for line in listing.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ("can't allocate memory", "not enough memory"))


def _reset_peak() -> bool:
    """Reset the process's peak; false where the system cannot."""
    try:
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
                ctypes.CDLL("libc.so.6").malloc_trim(0)  # else memory that earlier work freed would count as in use
            Path("/proc/self/clear_refs").write_text("5")
            return _status("VmHWM") is not None
    except OSError:
        pass
    return False


def _status(name: str) -> int | None:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
