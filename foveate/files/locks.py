"""Locks on folders and files of results, so that no two processes write to the same one. A lock ends with its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from foveate.errors import BusyError
from foveate.files.writing import clear, make_folder, write_error

__all__ = ["LOCK", "check_free", "claimed_file", "claimed_folder"]

LOCK = ".foveate.lock"
"""The file in a folder that the writer keeps locked. Its mere presence means nothing."""


@contextmanager
def claimed_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process alone, creating it if necessary, and remove what killed processes left unfinished in it.

    Raises:
        BusyError: another process holds it.
        WriteError: it cannot be created or written.
    """
    make_folder(folder)
    with _held(folder / LOCK, folder):
        clear(folder)
        yield


@contextmanager
def claimed_file(path: Path) -> Iterator[None]:
    """Lock a file that is written repeatedly for this process alone.

    Args:
        path: in an existing folder.

    Raises:
        BusyError: another process holds it.
        WriteError: nothing can be written next to it.
    """
    with _held(path.with_name(f".{path.name}.lock"), path):
        yield


def check_free(folder: Path) -> None:
    """Check that no other process holds a folder, which need not exist, before anything slow is done.

    Raises:
        BusyError: another process holds it.
    """
    if (folder / LOCK).exists():
        with _held(folder / LOCK, folder):
            pass


_OWN: set[Path] = set()
"""What this process holds: a system lock need not exclude a process from itself."""


@contextmanager
def _held(file: Path, claimed: Path) -> Iterator[None]:
    busy = f"another process is writing to {claimed}; wait until it has finished, or choose another place"
    own = file.absolute()
    if own in _OWN:
        raise BusyError(busy)
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BusyError(busy) from error
    except OSError as error:
        raise write_error(claimed, error) from error
    _OWN.add(own)
    try:
        yield
    finally:
        _OWN.discard(own)
        with suppress(OSError):  # on systems that cannot remove open files it stays, and means nothing
            file.unlink(missing_ok=True)  # while it is locked, so that a process that has opened it meanwhile finds it gone
        lock.release()
