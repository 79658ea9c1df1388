"""Standard output that is full, closed, or cannot show every character: handled here, once, for all commands."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from foveate.errors import WriteError

__all__ = ["flush", "output", "prepared", "reason"]


class _Closed(io.TextIOBase):
    """Stands for standard output where the process has none: writing to it is an error, having nothing to write is not."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


@contextmanager
def prepared() -> Iterator[None]:
    """Let both streams show a replacement for characters that their encoding lacks, and give the process a standard output."""
    before = sys.stdout
    if before is None:
        sys.stdout = _Closed()
    wrappers = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    handlers = [stream.errors for stream in wrappers]
    for stream in wrappers:
        stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    try:
        yield
    finally:
        for stream, handler in zip(wrappers, handlers, strict=True):
            with suppress(OSError, ValueError):
                stream.reconfigure(errors=handler)
        if before is None:
            sys.stdout = before


def flush() -> OSError | None:
    """Have on its way what was written to standard output; what prevents that, after which nothing more can be written.

    Without this, Python would find it out while it ends, and print a traceback.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        _abandon()
        return error
    return None


@contextmanager
def output() -> Iterator[None]:
    """Around writing to standard output.

    Raises:
        WriteError: it cannot be written to. A reader that goes away raises `BrokenPipeError`, which is no fault.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write to standard output: {error.strerror or error}") from error


def reason(error: OSError) -> str:
    """What an error of the system that nobody expected says, in one line."""
    return f"{error.filename or 'input or output failed'}: {error.strerror or str(error) or type(error).__name__}"


def _abandon() -> None:
    """Send what is still in the buffer nowhere, so that the end of the process does not fail on it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
