"""Methods and families do not know each other, and nothing else knows a family."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import foveate
from foveate.families import REFUSED, families
from foveate.methods import methods

ROOT = Path(foveate.__file__).parent
MODELS_OF_THEIR_OWN = {"demo"}
"""It builds a model of one family, the embedded one, and so must name its classes."""


def code(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every name and string, docstrings left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None  # a docstring tells people; comments are no part of the tree
    for node in ast.walk(tree):
        for field in ("id", "attr", "name", "arg", "module", "value"):
            text = getattr(node, field, None)
            if isinstance(text, str):
                yield getattr(node, "lineno", 0), text


def mentions(text: str, names: Iterable[str]) -> list[str]:
    """Which of the names stand in a text, in any case, and with any signs between their words or none."""
    spellings = [words(spelling) for spelling in (text, re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text))]
    return [name for name in names if any(words(name) in spelling for spelling in spellings)]


@cache
def words(text: str) -> str:
    """In small letters, with one space around each word."""
    return f" {re.sub(r'[^a-z0-9]+', ' ', text.lower())} "


def found(files: Iterable[Path], named: Callable[[str], Iterable[str]]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}:{line}: {name} in {text!r}"
        for file in files
        for line, text in code(ast.parse(file.read_text(encoding="utf-8")))
        for name in named(text)
    ]


def test_no_family_is_named_outside_the_families() -> None:
    names = {name for family in families().values() for name in (family.name, *family.model_types)} | set(REFUSED)
    files = [
        file
        for file in sorted(ROOT.rglob("*.py"))
        if not any(file.relative_to(ROOT).as_posix().startswith(own) for own in ("families", *MODELS_OF_THEIR_OWN))
    ]
    assert len(files) > 40
    names.remove("git")  # a refused model that is called like a program
    assert not found(files, lambda text: mentions(text, names))


def test_no_method_is_named_inside_the_families() -> None:
    # As a whole, because a model may well pool or be random.
    names = {word for name, method in methods().items() for word in (name, method.__name__)}
    files = sorted((ROOT / "families").rglob("*.py"))
    assert len(files) > 15
    assert not found(files, lambda text: names & {text} or [text] * text.startswith("foveate.method"))


def test_no_model_is_known_to_a_method() -> None:
    for file in sorted((ROOT / "methods").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            assert not any(module.startswith(("transformers", "foveate.families", "foveate.compression")) for module in modules), file


def test_names_are_found_in_every_spelling() -> None:
    for text in ("llava", "LlavaForConditionalGeneration", "if model_type == 'llava-next'", "from x.llava_next import y", "is_llava_next"):
        assert "llava" in mentions(text, {"llava"})
    assert mentions("as with LLaVA-1.5", {"llava"})
    assert not mentions("lava larger evangellava llavas", {"llava"})


def loads(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls of `from_pretrained` and `from_config` on whatever stands before them, but for one's own base class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("from_pretrained", "from_config"):
            owner = node.func.value
            mine = isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super"
            compressor = isinstance(owner, ast.Name) and owner.id == "ConvCompressor"  # reads tensors and JSON, and has no code to run
            if not mine and not compressor:
                yield node


def test_whatever_is_loaded_may_not_bring_code() -> None:
    found = {file: list(loads(ast.parse(file.read_text(encoding="utf-8")))) for file in sorted(ROOT.rglob("*.py"))}
    for file, calls in found.items():
        for call in calls:
            trusts = [option.value for option in call.keywords if option.arg == "trust_remote_code"]
            named = [value.value for value in trusts if isinstance(value, ast.Constant)]
            assert named == [False], f"{file.relative_to(ROOT)}:{call.lineno} loads without trust_remote_code=False"
    loaders = {file.relative_to(ROOT).as_posix() for file, calls in found.items() for call in calls if call.func.attr == "from_pretrained"}
    assert loaders == {"checkpoints/loader.py"}, "load through foveate.checkpoints, which refuses incomplete weights"
