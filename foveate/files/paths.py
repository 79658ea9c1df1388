"""Whether two paths lead to the same file."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["same_file"]


def same_file(first: Path, second: Path) -> bool:
    """Whether writing to one path would change the other: through a symbolic or hard link, another spelling, or equal names.

    Args:
        first: a path; there need not be a file.
        second: likewise.
    """
    try:
        return os.path.samefile(first, second)  # hard links have different names, and share their file
    except OSError:  # one of them does not exist yet
        return os.path.realpath(first) == os.path.realpath(second)
    except ValueError:  # a null byte: no file can have this name
        return first == second
