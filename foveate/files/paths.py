"""Whether two names stand for one file."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["same_file"]


def same_file(first: Path, second: Path) -> bool:
    """Whether writing the one would change the other: by way of links of both kinds, another spelling, or because the names are equal.

    Args:
        first: a name; there need not be a file.
        second: likewise.
    """
    try:
        return os.path.samefile(first, second)  # hard links have names of their own, and share their file
    except OSError:  # one of them is not there yet
        return os.path.realpath(first) == os.path.realpath(second)
    except ValueError:  # a null byte: no file can be called so
        return first == second
