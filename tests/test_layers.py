"""Rooms stand in layers: a module imports from its own room and from those below it, never from one above."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import foveate

pytestmark = pytest.mark.project

ROOT = Path(foveate.__file__).parent
LAYERS: tuple[tuple[str, ...], ...] = (
    ("version", "printable", "moved"),
    ("errors", "devices"),
    ("files", "entry_points"),
    ("plan", "view", "images", "video"),
    ("report", "method"),
    ("budget",),
    ("families",),
    ("demo",),
    ("engine",),
    ("compression",),
    ("chat",),
    ("explain",),
    ("methods",),
    ("draw",),
    ("measure",),
    ("recipe",),
    ("plugins",),
    ("cli",),
    ("__init__", "__main__"),
)
"""Ground first. `docs/how_it_works.md` says what lives in each room."""
NESTED = {
    "demo": (("scenes",), ("model",)),
    "explain": (("relevance",), ("labels",), ("compressor",)),
    "families": (("kit",),),
    "measure": (("bench",), ("evaluation",), ("analysis",), ("reporting",)),
}
"""The order inside a room that holds several; modules beside them may be used by all of them."""
FACE = {"foveate.__init__"}
"""May import anything: it looks names up for users, on first use."""


def modules() -> dict[str, Path]:
    """Every module by its dotted name, packages as `foveate.room.__init__`."""
    return {".".join(("foveate", *file.relative_to(ROOT).with_suffix("").parts)): file for file in sorted(ROOT.rglob("*.py"))}


KNOWN = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of what a module imports at any depth, but for imports that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node)


def home(name: str) -> str | None:
    """The module of ours that a dotted name comes from."""
    while name.startswith("foveate"):
        for module in (name, f"{name}.__init__"):
            if module in KNOWN:
                return module
        name = name.rpartition(".")[0]
    return None


def rank(module: str) -> int:
    room = module.split(".")[1]
    return next(index for index, rooms in enumerate(LAYERS) if room in rooms)


def level(module: str) -> int | None:
    """The layer inside its room, if the room has any and the module is not beside them."""
    _, room, *inner = module.split(".")
    return next((index for index, rooms in enumerate(NESTED.get(room, ())) if inner and inner[0] in rooms), None)


def upward(importer: str, module: str) -> bool:
    """Whether an import leads to a higher layer."""
    if importer in FACE:
        return False
    if rank(module) != rank(importer):
        return rank(module) > rank(importer)
    own, other = level(importer), level(module)
    return own is not None and other is not None and module.split(".")[1] == importer.split(".")[1] and other > own


def test_every_room_has_its_place() -> None:
    rooms = {module.split(".")[1] for module in KNOWN}
    assert rooms == {room for layer in LAYERS for room in layer}
    assert len([room for room in rooms if (ROOT / room).is_dir()]) <= 12


@pytest.mark.parametrize("module", sorted(KNOWN))
def test_nothing_is_imported_from_a_layer_above(module: str) -> None:
    names = imported(ast.parse(KNOWN[module].read_text(encoding="utf-8")))
    found = {target for name in names if (target := home(name)) and target != module}
    assert not sorted(target for target in found if upward(module, target))


def test_an_import_from_above_is_seen_wherever_it_stands() -> None:
    text = "if True:\n    def f():\n        from foveate.cli import app\n        import foveate.measure.facts"
    assert [home(name) for name in imported(ast.parse(text))] == ["foveate.cli.app", "foveate.measure.facts"]
    assert upward("foveate.engine.handle", "foveate.compression")
    assert upward("foveate.measure.bench.speed", "foveate.measure.reporting.page")
    assert not upward("foveate.measure.reporting.page", "foveate.measure.bench.speed")
    assert upward("foveate.methods.fastv", "foveate.__init__")


def test_every_room_says_what_lives_in_it() -> None:
    for module, file in KNOWN.items():
        if file.name == "__init__.py":
            assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), module
