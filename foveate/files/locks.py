"""Claims on folders and files of results, so that two processes never write to one. A claim dies with its process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from foveate.errors import BusyError
from foveate.files.writing import clear, make_folder, write_error

__all__ = ["LOCK", "check_free", "claimed_file", "claimed_folder"]

LOCK = ".foveate.lock"
"""The file in a folder that its writer holds locked. It means nothing by being there."""


@contextmanager
def claimed_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone, made if it is not there, and remove what killed processes left unfinished in it.

    Raises:
        BusyError: another process holds it.
        WriteError: it cannot be made or written.
    """
    make_folder(folder)
    with _held(folder / LOCK, folder):
        clear(folder)
        yield


@contextmanager
def claimed_file(path: Path) -> Iterator[None]:
    """Hold a file that is written again and again for this process alone.

    Args:
        path: in a folder that is there.

    Raises:
        BusyError: another process holds it.
        WriteError: nothing can be written beside it.
    """
    with _held(path.with_name(f".{path.name}.lock"), path):
        yield


def check_free(folder: Path) -> None:
    """See that nobody else holds a folder, which need not be there, before anything slow is done.

    Raises:
        BusyError: another process holds it.
    """
    if (folder / LOCK).exists():
        with _held(folder / LOCK, folder):
            pass


_OWN: set[Path] = set()
"""What this process holds: a lock of the system need not keep a process from itself."""


@contextmanager
def _held(file: Path, claimed: Path) -> Iterator[None]:
    busy = f"another process is writing to {claimed}; wait until it has ended, or choose another place"
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
        with suppress(OSError):  # where open files cannot be removed, it stays, and means nothing
            file.unlink(missing_ok=True)  # while it is held, so that whoever has opened it by then finds it gone
        lock.release()
