"""One name means one thing: no two public classes of the package share a name."""

from __future__ import annotations

import ast
from collections import defaultdict

from test_layers import KNOWN


def shared() -> dict[str, list[str]]:
    """Public class names with the modules that define them, if there are several."""
    found: dict[str, list[str]] = defaultdict(list)
    for module, file in KNOWN.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module)
    return {name: modules for name, modules in found.items() if len(modules) > 1}


def test_no_two_classes_share_a_name() -> None:
    assert shared() == {}
