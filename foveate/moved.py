"""Modules whose documented paths have changed: the old path still imports, with a `DeprecationWarning` that names the new one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["MOVED", "accept_old_paths"]

MOVED = {
    "foveate.families.features": "foveate.families.kit.features",
    "foveate.families.layout": "foveate.families.kit.layout",
    "foveate.families.processors": "foveate.families.kit.processors",
    "foveate.families.regions": "foveate.families.kit.regions",
    "foveate.families.runs": "foveate.families.kit.runs",
    "foveate.families.towers": "foveate.families.kit.towers",
    "foveate.demo.card": "foveate.recipe.card",
    "foveate.demo.evaluate": "foveate.measure.scenes",
    "foveate.demo.processing": "foveate.demo.model.processing",
    "foveate.demo.shape": "foveate.demo.model.shape",
    "foveate.demo.train": "foveate.recipe.train",
    "foveate.measure.drawn_tasks": "foveate.measure.evaluation.drawn_tasks",
    "foveate.measure.tasks": "foveate.measure.evaluation.tasks",
}
"""Old paths and where their names are now. They go with version 1.0."""


class _OldPaths(MetaPathFinder, Loader):
    """Asked last, so it sees only names that no module has."""

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        new = MOVED[module.__name__]
        warnings.warn(f"{module.__name__} is now {new}; the old path goes with foveate 1.0", DeprecationWarning, stacklevel=2)
        public = {name: value for name, value in vars(import_module(new)).items() if not name.startswith("__") or name == "__all__"}
        module.__dict__.update(public)

    def get_code(self, fullname: str) -> object:
        """For `python -m`: the module at its new path runs."""
        return compile(f"import runpy; runpy.run_module({MOVED[fullname]!r}, run_name='__main__', alter_sys=True)", fullname, "exec")


def accept_old_paths() -> None:
    """Let the old paths be imported; once is enough."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.append(_OldPaths())
