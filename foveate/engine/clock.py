"""The one clock of every time that foveate reports."""

from __future__ import annotations

import time

import torch

__all__ = ["seconds"]


def seconds(device: torch.device) -> float:
    """Seconds on a monotonic clock, once all work queued on `device` is done; differences count what was really computed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
