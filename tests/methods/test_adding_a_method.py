"""The code of docs/adding_a_method.md and docs/methods.md runs as it stands, in the files that its first lines name."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from distribution import install
from tiny import IMAGE, batch, pixels, prompt, tiny_llava

import foveate
from foveate.methods import find_method, registry
from foveate.view import SIGNALS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "adding_a_method.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"```(?:python|toml)\n# (\S+\.(?:py|toml))\n(.*?)```", PAGE, re.DOTALL))
METHODS = (DOCS / "methods.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the page in a folder, which is the current one, and undone afterwards."""
    for name, code in BLOCKS.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_extensions", registry.Extensions(registry.GROUP, registry._add))
    known, modules = dict(registry._methods), set(sys.modules)
    yield tmp_path
    registry._methods.clear()
    registry._methods.update(known)
    for name in set(sys.modules) - modules:
        if f"{name}.py" in BLOCKS:
            del sys.modules[name]


def test_every_block_of_the_page_is_one_of_these() -> None:
    assert set(BLOCKS) == {"largest_norm.py", "by_hand.py", "in_a_model.py", "by_name.py", "pyproject.toml", "most_asked.py"}
    assert PAGE.count("```") == 2 * (len(BLOCKS) + 1)  # and one of commands


def test_a_method_is_tried_by_hand(folder: Path) -> None:
    found = runpy.run_path("by_hand.py")
    assert found["plan"].tokens_after == 128
    assert torch.equal(found["plan"].kept, found["view"].states.norm(dim=-1).topk(128).indices.sort().values)


def test_a_method_is_used_with_a_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path("in_a_model.py")
    assert "576 -> 128" in capsys.readouterr().out


def test_a_method_is_used_by_name(folder: Path) -> None:
    method = runpy.run_path("by_name.py")["method"]
    assert (method.name, method.order, method.keep) == ("largestnorm", 1.0, 128)
    assert "order: 1.0" in (folder / "largest_norm.yaml").read_text()


def test_a_method_is_shipped_in_a_package(folder: Path) -> None:
    project = tomllib.loads(BLOCKS["pyproject.toml"])
    install(folder, "largest_norm", BLOCKS["largest_norm.py"], foveate_methods=project["project"]["entry-points"]["foveate.methods"])
    assert project["tool"]["setuptools"]["py-modules"] == ["largest_norm"]
    assert "largest_norm" not in sys.modules
    assert find_method("largestnorm").__module__ == "largest_norm"


def test_a_method_reads_signals(folder: Path) -> None:
    method = runpy.run_path("most_asked.py")["MostAsked"]
    with foveate.compress(tiny_llava(), method(keep=4)) as handle, torch.no_grad():
        handle.model(**batch([prompt(3, "image", 5)]))
    assert handle.report.tokens_after == 4
    rows = re.findall(r"^\| `(\w+)` \| \(", PAGE, re.MULTILINE)
    assert set(rows) == set(SIGNALS)


def test_the_page_names_files_that_there_are() -> None:
    root = DOCS.parent
    named = re.findall(r"`((?:tests|foveate|docs|examples)/[\w/]+(?:\.py|\.md|/))`", PAGE)
    assert len(named) > 5
    assert all((root / name).exists() for name in named)
    assert hasattr(foveate, "_FACE")
    assert "CHANGED: dict" in (root / "tests/methods/test_configuration.py").read_text(encoding="utf-8")
    assert "MAKERS: dict" in (root / "tests/methods/test_every_method.py").read_text(encoding="utf-8")


def test_the_code_about_the_methods_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|yaml)\n(.*?)```", METHODS, re.DOTALL)
    assert len(blocks) == 9
    shown = {"input_ids": torch.tensor([[1, *[IMAGE] * 576, 2]]), "pixel_values": pixels(1, side=24)}
    known: dict[str, Any] = {"states": torch.randn(576, 32), "attention": torch.rand(576), "model": tiny_llava(side=24), "batches": [shown]}
    for kind, code in blocks:
        if kind == "python":
            exec(code, known)
        else:
            name, text = re.fullmatch(r"# (\S+)\n(.*)", code, re.DOTALL).groups()  # type: ignore[union-attr]
            Path(name).write_text(text, encoding="utf-8")
    assert known["merged"].shape == (128, 32)
    assert known["fitted"].numbers == (64,)
    assert known["schedule"] == [foveate.FastV(0.5), foveate.TokenCarve(64, 8, information="fast")]
