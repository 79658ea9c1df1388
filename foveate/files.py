"""Writing files so that nobody ever finds half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["UNFINISHED", "whole", "write_whole"]

UNFINISHED = ".part"
"""How the names of files end that are not whole yet; they begin with a dot."""


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Where to write a file so that a kill at any moment leaves the old one or the new one; at the end it takes its place.

    Args:
        path: in a folder that is there.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write a file so that a kill at any moment leaves the old one or the new one.

    Args:
        path: in a folder that is there.
        content: all of it; text is written as UTF-8.

    Raises:
        OSError: it cannot be written; what was there is as it was.
    """
    with whole(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)
