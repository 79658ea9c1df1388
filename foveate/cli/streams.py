"""Standard output that is full, closed, or cannot show every character, handled once for all commands."""

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
    """In place of a standard output that the process does not have: writing to it is an error, writing nothing is not."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


@contextmanager
def prepared() -> Iterator[None]:
    """Let both streams replace characters that their encoding lacks, and give the process a standard output."""
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
    """Flush standard output; returns the error if that fails, after which nothing more can be written.

    Without this, Python would flush at exit, and print a traceback.
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
        WriteError: it cannot be written to. A reader that closes the pipe raises `BrokenPipeError`, which is not an error of ours.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WriteError(f"cannot write to standard output: {error.strerror or error}") from error


def reason(error: OSError) -> str:
    """What an unexpected error of the system says, in one line."""
    return f"{error.filename or 'input or output failed'}: {error.strerror or str(error) or type(error).__name__}"


def _abandon() -> None:
    """Discard what is still in the buffer, so that the process does not fail on it at exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
