"""Work with limits on time and memory, in its own process."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from foveate.files.records import ANYTHING

__all__ = ["Bounds", "OverBoundsError", "WorkError", "run_bounded"]

_CHUNK = 2**16


class OverBoundsError(Exception):
    """Work exceeded a limit; the text says which."""


class WorkError(Exception):
    """Work raised something; the text says what."""


@dataclass(frozen=True)
class Bounds:
    """Limits of a piece of work.

    Attributes:
        seconds: of processor time.
        memory: bytes in addition to those of this process.
        result: bytes of the result.
        patience: seconds of wall-clock time after which it counts as hung; generous, for busy machines.
    """

    seconds: float = 10.0
    memory: int = 2**30
    result: int = 2**24
    patience: float = 600.0


def run_bounded(work: Callable[[], Any], bounds: Bounds) -> Any:
    """Do some work in a child process, which starts with a copy of this one's memory.

    Where processes cannot be forked safely (on systems other than Linux), it runs in this process, without limits.

    Args:
        work: returns something that JSON can represent; it computes on the CPU, in Python.
        bounds: its limits.

    Raises:
        OverBoundsError: it exceeds a limit.
        WorkError: it raised something.
    """
    if sys.platform != "linux":
        try:
            return work()
        except Exception as error:
            raise WorkError(_told(error)) from error
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about the threads of this process; the child needs none of their locks
        child = os.fork()
    if child == 0:
        _work(work, writing, bounds)
    os.close(writing)
    try:
        written = _read(reading, bounds)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    finally:
        os.close(reading)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGPROF:
        raise OverBoundsError(f"{bounds.seconds:g} seconds")
    if code:
        raise OverBoundsError(f"{bounds.memory // 2**20} MiB of memory, or it ended its process (exit code {code})")
    outcome = ANYTHING.parse(written, "what a chat template gave").raw
    if "error" in outcome:
        raise WorkError(outcome["error"])
    if "over" in outcome:
        raise OverBoundsError(outcome["over"])
    return outcome["result"]


def _work(work: Callable[[], Any], writing: int, bounds: Bounds) -> NoReturn:
    """The child's whole life. It exits without cleaning up what belongs to the parent, such as devices and open files."""
    code = 1
    try:
        gc.disable()  # garbage of the parent may own memory of a device, which only the parent may free
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        _limit(bounds)
        outcome: dict[str, Any] = {}
        try:
            outcome["result"] = work()
        except MemoryError:
            outcome["over"] = f"{bounds.memory // 2**20} MiB of memory"
        except Exception as error:
            outcome["error"] = _told(error)
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps(outcome).encode())
        code = 0
    finally:
        os._exit(code)


def _limit(bounds: Bounds) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + bounds.memory
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, bounds.seconds)  # counts the processor's time, and its signal ends the process


def _read(reading: int, bounds: Bounds) -> bytes:
    """What the child writes, up to its end.

    Raises:
        OverBoundsError: it writes too much, or nothing for too long.
    """
    written, deadline = bytearray(), time.monotonic() + bounds.patience
    while True:
        if not select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise OverBoundsError(f"{bounds.patience:g} seconds of waiting")
        chunk = os.read(reading, _CHUNK)
        if not chunk:
            return bytes(written)
        written += chunk
        if len(written) > bounds.result:
            raise OverBoundsError(f"{bounds.result} bytes of text")


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
