"""What other installed packages bring to foveate: one entry-point group per kind of extension, each entry loaded at most once."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from foveate.errors import ExtensionWarning
from foveate.printable import shortened

__all__ = ["Extensions"]

_LONGEST_REASON = 300


class Extensions:
    """The entries of one entry-point group. An entry that fails is reported once, with its package, and does not stop the others.

    Args:
        group: name of the entry-point group, such as "foveate.methods".
        add: called with the object of each entry; it refuses what does not belong there by raising.
    """

    def __init__(self, group: str, add: Callable[[Any], object]) -> None:
        self.group = group
        self.faults: dict[str, str] = {}
        """Why entries failed, by the package that brings them."""
        self._add = add
        self._seen: set[tuple[str, str, str]] = set()
        self._scanned = False
        # Reentrant, because a package that is being loaded may look a name up.
        self._lock = threading.RLock()

    def load(self, *, again: bool = False) -> None:
        """Load the entries of all installed packages.

        Args:
            again: look for packages that were installed since the last call, which otherwise scans nothing.

        Warns:
            ExtensionWarning: an entry cannot be loaded, or is refused.
        """
        with self._lock:
            if self._scanned and not again:
                return
            self._scanned = True
            for entry in entry_points(group=self.group):
                key = (_package(entry), entry.name, entry.value)
                if key not in self._seen:
                    self._seen.add(key)
                    self._load(entry)

    def _load(self, entry: EntryPoint) -> None:
        try:
            self._add(entry.load())
        except Exception as error:  # the code is somebody else's, and may fail in any way
            package = _package(entry)
            reason = shortened(f"{type(error).__name__}: {error}", _LONGEST_REASON)
            self.faults[package] = f"{entry.name} = {entry.value}: {reason}"
            warnings.warn(
                f"the package {package} cannot add {entry.name!r} ({entry.value}) to {self.group}: {reason}; update or uninstall it",
                ExtensionWarning,
                stacklevel=4,
            )


def _package(entry: EntryPoint) -> str:
    """Name and version of the package that brings an entry."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "unknown"
