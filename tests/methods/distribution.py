"""A small installed package that brings methods or families: its code and its `*.dist-info`, as pip would leave them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CODE", "install"]

CODE = '''
from dataclasses import dataclass

import foveate


@dataclass(frozen=True)
class Checkered(foveate.Method):
    """Keeps every other token first, from a package of its own."""

    offset: int = 0

    def score(self, view):
        return (view.states.new_ones(len(view)).cumsum(0) + self.offset) % 2
'''


def install(folder: Path, package: str, code: str | None = CODE, **groups: dict[str, str]) -> None:
    """Put a package where it can be imported from.

    Args:
        folder: to be on `sys.path`.
        package: its name, for pip and for `import`.
        code: of its only module; `None` for a package whose code is missing.
        groups: entry points by group, with "_" for the dot: foveate_methods={"checkered": "package:Checkered"}.
    """
    if code is not None:
        (folder / f"{package}.py").write_text(code, encoding="utf-8")
    info = folder / f"{package}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n", encoding="utf-8")
    lines = [line for group, entries in groups.items() for line in (f"[{group.replace('_', '.')}]", *map(" = ".join, entries.items()))]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
