"""Which transformers foveate was tested with, and what is said on any other."""

from __future__ import annotations

import functools
import warnings

import transformers
from packaging.version import Version

from foveate.errors import UntestedVersionWarning

__all__ = ["NEWEST", "OLDEST", "installed", "tested_range", "warn_if_untested"]

OLDEST, NEWEST = "5.16.0", "5.24.0"
"""The ends of the range whose tests pass (docs/versions.md)."""


def installed() -> str:
    """The version of transformers that runs."""
    return str(transformers.__version__)


def tested_range() -> str:
    """The installed version and the tested ones, for messages."""
    return f"transformers {installed()} is installed; foveate was tested with {OLDEST} to {NEWEST}"


@functools.cache
def warn_if_untested() -> None:
    """Warn, once a process, of a version outside the tested range."""
    if not Version(OLDEST) <= Version(installed()) <= Version(NEWEST):
        warnings.warn(
            f"{tested_range()}. What it does is checked while it runs, and a mismatch raises ConsistencyError; to be safe, install a "
            f"tested version: pip install 'transformers>={OLDEST},<={NEWEST}'",
            UntestedVersionWarning,
            stacklevel=3,
        )
