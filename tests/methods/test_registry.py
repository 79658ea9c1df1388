"""A method of one's own has a name once it is registered, by a call, a decorator or an installed package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

import pytest
from distribution import CODE, install
from PIL import Image
from tiny import batch, prompt, tiny_llava
from torch import Tensor

import foveate
from foveate.errors import ExtensionWarning, InputError, UnknownNameError, UsageError
from foveate.families import base
from foveate.measure.analysis.controls import Norm
from foveate.measure.analysis.information_loss import FULL
from foveate.measure.evaluation import runs
from foveate.methods import find_method, methods, registry
from foveate.methods.options import build_method


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The table as it was, and no memory of packages."""
    known, modules = dict(registry._methods), set(sys.modules)
    monkeypatch.setattr(registry, "_extensions", registry.Extensions(registry.GROUP, registry._add))
    monkeypatch.setattr(base, "_extensions", base.Extensions(base.GROUP, base._add))
    yield
    registry._methods.clear()
    registry._methods.update(known)
    for name in set(sys.modules) - modules:
        if name.startswith("acme"):
            del sys.modules[name]


def largest_norm(**members: Any) -> type[foveate.Method]:
    """A method as a user writes it, not registered yet."""

    def score(self: foveate.Method, view: foveate.View) -> Tensor:
        return view.states.float().norm(dim=-1)

    made = type("LargestNorm", (foveate.Method,), {"__module__": "mine", "score": score, **members})
    return dataclass(frozen=True)(made)


def test_a_decorator_gives_a_method_its_name() -> None:
    @foveate.register
    @dataclass(frozen=True)
    class Loudest(foveate.Method):
        """Keeps the loudest tokens."""

        power: float = 2.0

        def score(self, view: foveate.View) -> Tensor:
            return view.states.float().abs().pow(self.power).sum(-1)

    assert find_method("Loud-est") is methods()["loudest"] is Loudest
    assert foveate.parse_method("loudest:power=3,keep=4") == Loudest(4, power=3.0)
    assert build_method("loudest", 0.5, 0, None, ["power=1"], False) == Loudest(0.5, 0, power=1.0)
    assert foveate.methods.method_from_json(Loudest(4).to_json()) == Loudest(4)
    with foveate.compress(tiny_llava(), foveate.parse_method("loudest", keep=4)) as handle:
        handle.model(**batch([prompt(3, "image", 5)]))
        (image,) = handle.report.images
    assert image.stages[0].method == "Loudest(keep=4)"


def test_a_call_does_the_same_and_a_name_can_be_chosen() -> None:
    made = largest_norm(name="norm_2")
    assert foveate.register(made) is made
    assert find_method("norm-2") is find_method("norm2") is methods()["norm_2"] is made


def test_a_class_that_is_defined_again_replaces_itself() -> None:
    foveate.register(largest_norm())
    again = foveate.register(largest_norm())
    assert find_method("largestnorm") is again


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: largest_norm()(keep=4), UsageError, r"got an instance of LargestNorm.*register\(LargestNorm\)"),
        (lambda: foveate.Method, UsageError, "class that derives from foveate.Method"),
        (lambda: "fastv", UsageError, "got str 'fastv'"),
        (lambda: next(iter(foveate.families.families().values())), UsageError, r"foveate\.families\.register"),
        (lambda: type("Plain", (foveate.Method,), {"score": lambda self, view: view}), UsageError, r"frozen=True\) below @foveate"),
        (lambda: dataclass(frozen=True)(type("Empty", (foveate.Method,), {})), UsageError, r"override score\(view\).*or plan"),
        (lambda: largest_norm(exact=True, __annotations__={"exact": bool}), UsageError, "exact is an option.*ClassVar"),
        (lambda: largest_norm(needs=frozenset(), __annotations__={"needs": frozenset}), UsageError, "needs is an option.*ClassVar"),
        (lambda: largest_norm(schedule=1, __annotations__={"schedule": int}), UsageError, "schedule is an option.*rename"),
        (lambda: largest_norm(start=1, __annotations__={"start": InitVar[int]}), UsageError, "start is an InitVar.*make it a field"),
        (lambda: largest_norm(start=1, __module__=__name__, __annotations__={"start": "InitVar[int]"}), UsageError, "start is an InitVar"),
        (lambda: largest_norm(name="fastv"), InputError, r"'fastv' is taken by foveate.methods.fastv.FastV; give LargestNorm"),
        (lambda: largest_norm(name="fast_v"), InputError, r"'fast_v' is taken by foveate.methods.fastv.FastV"),
        (lambda: largest_norm(name="none"), InputError, "'none' stands for the full model; give LargestNorm another one: name"),
        (lambda: largest_norm(name="Norm"), InputError, "'Norm' must be lower-case letters, digits and underscores"),
        (lambda: largest_norm(name="2norm"), InputError, "after a letter"),
        (lambda: largest_norm(name="n/o"), InputError, "lower-case"),
        (lambda: largest_norm(name="n" * 65), InputError, "lower-case"),
        (lambda: largest_norm(name=3), InputError, "lower-case"),
    ],
)
def test_what_cannot_be_registered_says_the_way_out(make: Any, error: type[Exception], match: str) -> None:
    before = methods()
    with pytest.raises(error, match=match) as caught:
        foveate.register(make())
    assert "\n" not in str(caught.value)
    assert methods() == before


def test_an_installed_package_brings_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "acme", foveate_methods={"checkered": "acme:Checkered"})
    install(tmp_path, "acme_more", CODE.replace("@dataclass", "@foveate.register\n@dataclass").replace("Checkered", "Striped"))
    (tmp_path / "acme_more-1.2.dist-info" / "entry_points.txt").write_text("[foveate.methods]\nall = acme_more\n")
    with pytest.raises(UnknownNameError):
        find_method("checkered")
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings(action="error"):
        assert find_method("checkered").__module__ == "acme"
        assert {"checkered", "striped", "fastv"} <= set(methods())
        assert foveate.parse_method("checkered:offset=1,keep=2").offset == 1  # type: ignore[attr-defined]


def test_packages_are_not_imported_for_a_known_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "acme", foveate_methods={"checkered": "acme:Checkered"})
    monkeypatch.syspath_prepend(tmp_path)
    assert find_method("fastv") is foveate.FastV
    assert "acme" not in sys.modules


@pytest.mark.parametrize(
    ("code", "entry", "reason"),
    [
        (None, "acme_broken:Checkered", "ModuleNotFoundError: No module named 'acme_broken'"),
        ("1 / 0", "acme_broken:Checkered", "ZeroDivisionError"),
        (CODE, "acme_broken:Missing", "AttributeError"),
        (CODE.replace("Checkered", "FastV"), "acme_broken:FastV", "the name 'fastv' is taken"),
        ("value = 3", "acme_broken:value", "class that derives from foveate.Method"),
        ("raise RuntimeError('first\\nsecond' + 999 * '.')", "acme_broken", "RuntimeError: first second"),
    ],
)
def test_a_broken_package_is_named_and_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, entry: str, reason: str
) -> None:
    install(tmp_path, "acme_broken", code, foveate_methods={"x": entry})
    install(tmp_path, "acme", foveate_methods={"checkered": "acme:Checkered"})
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(ExtensionWarning, match=re.escape(reason)) as caught:
        assert {"checkered", "fastv"} <= set(methods())
    (said,) = [str(warning.message) for warning in caught if warning.category is ExtensionWarning]
    assert said.startswith("the package acme_broken 1.2 cannot add 'x'")
    assert said.endswith("update or uninstall it")
    assert "\n" not in said
    assert len(said) < 500
    with warnings.catch_warnings(action="error"):  # once is enough
        methods()
    with pytest.raises(UnknownNameError, match=rf"acme_broken 1\.2 failed to load.*{re.escape(reason)}"):
        find_method("missing")


def test_an_installed_package_brings_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(base._FAMILIES)
    code = (
        "from foveate.families.llava import Llava\n"
        "class Acme(Llava):\n    name = 'acme'\n    summary = 'a family'\n    model_types = ('acme_vl',)\n"
    )
    install(tmp_path, "acme_family", code, foveate_families={"acme": "acme_family:Acme"})
    install(tmp_path, "acme_broken", None, foveate_families={"x": "acme_broken:Family"})
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.warns(ExtensionWarning, match=r"acme_broken 1\.2 cannot add 'x' .*foveate\.families"):
            assert "acme" in foveate.families.families()
    finally:
        base._FAMILIES.clear()
        base._FAMILIES.update(known)


def test_what_is_no_family_is_refused() -> None:
    class Nameless(type(foveate.families.families()["llava"])):  # type: ignore[misc]
        name = ""

    class Textual(type(foveate.families.families()["llava"])):  # type: ignore[misc]
        model_types = "llava_next"

    refused = [
        (foveate.FastV, "Methods have foveate.register"),
        (Nameless, "Nameless has no name; set"),
        (Textual, r"Textual\.model_types is text; make it a tuple: \('llava_next',\)"),
    ]
    for given, match in refused:
        with pytest.raises(UsageError, match=match):
            foveate.families.register(given)


def test_a_family_says_whether_features_are_injected() -> None:
    llava = type(foveate.families.families()["llava"])
    injected = {"injected": lambda self, kwargs: None}
    with pytest.raises(UsageError, match=r"Silent overrides injected\(\) but does not say so; set injects = True"):
        type("Silent", (llava,), injected)
    with pytest.raises(UsageError, match=r"Loud does not override injected\(\); set injects = False"):
        type("Loud", (llava,), {"injects": True})
    said = type("Said", (llava,), {**injected, "injects": True})
    assert type("Heir", (said,), {}).injects
    assert [name for name, family in foveate.families.families().items() if family.injects] == ["qwen3-vl"]


def program(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, in an environment where the packages in `folder` are installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-m", "foveate", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)


def test_the_command_line_knows_the_methods_of_packages(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    install(packages, "acme", foveate_methods={"checkered": "acme:Checkered"})
    install(packages, "acme_broken", None, foveate_methods={"x": "acme_broken:X"})
    listed = program(packages, "methods", "--json")
    assert listed.returncode == 0, listed.stderr
    (row,) = [row for row in json.loads(listed.stdout) if row["name"] == "checkered"]
    assert row["summary"] == "Keeps every other token first, from a package of its own."
    assert listed.stderr.count("the package acme_broken 1.2 cannot add 'x'") == 1
    assert "Traceback" not in listed.stderr

    picture, report = tmp_path / "picture.png", tmp_path / "report.json"
    Image.new("RGB", (64, 64), "red").save(picture)
    asked = program(
        packages, "ask", str(picture), "What?", "--method", "checkered", "--keep", "9", "--report", str(report), "--max-new-tokens", "1"
    )
    assert asked.returncode == 0, asked.stderr
    assert foveate.Report.load(report).images[0].stages[0].method == "Checkered(keep=9)"


def test_lmms_eval_knows_the_methods_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lmms_eval")
    from foveate.plugins.lmms_eval_model import FoveateModel

    install(tmp_path, "acme", foveate_methods={"checkered": "acme:Checkered"})
    monkeypatch.syspath_prepend(tmp_path)
    model = FoveateModel(pretrained="demo", method="checkered", keep=9, offset=1)
    assert str(model.method) == "Checkered(keep=9, offset=1)"


def test_reserved_names_are_those_that_results_use() -> None:
    assert {Norm.name, FULL, runs.FULL.name, runs.BLIND.name} <= set(registry.RESERVED)
