"""Modules import one another in one direction: no chain of imports leads back to where it started, inside a room either."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

import pytest
from test_layers import FACE, KNOWN, home, imported

pytestmark = pytest.mark.project


def imports() -> dict[str, set[str]]:
    """What each module imports, at any depth: an import inside a function may hide a cycle, and it does not break one."""
    found = {}
    for module, file in KNOWN.items():
        names = imported(ast.parse(file.read_text(encoding="utf-8")))
        targets = {target for name in names if module not in FACE and (target := home(name))}
        found[module] = targets - {module}
    return found


def check(graph: Mapping[str, set[str]]) -> None:
    """Raise `CycleError` with the chain of modules if there is one."""
    TopologicalSorter(graph).prepare()


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = imports()
    assert sum(map(len, graph.values())) > 500
    check(graph)


def test_a_cycle_that_an_import_closes_is_found() -> None:
    graph = imports()
    graph["foveate.demo.folders"] = {"foveate.demo.model.shapes"}
    with pytest.raises(CycleError, match=r"foveate\.demo\.model\.shapes.*foveate\.demo\.folders"):
        check(graph)
