"""The one reader of files: what it takes, what it refuses, and that nothing in the package reads JSON past it."""

from __future__ import annotations

import ast
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate
from foveate.errors import InputError, RecordError
from foveate.files.records import ANYTHING, DEPTH, Count, RecordSchema, read_bytes, read_tensors, read_text

ROOT = Path(foveate.__file__).parents[1]


@dataclass(frozen=True)
class Inner:
    size: Count


@dataclass(frozen=True)
class Outer:
    name: str
    inner: list[Inner]
    share: float | None = None

    def __post_init__(self) -> None:
        if self.name == "odd":
            raise ValueError("name should not be odd")


FORM: RecordSchema[Outer] = RecordSchema("an outer thing", Outer, {"format": 1}, "make another")
GOOD = '{"format": 1, "name": "a", "inner": [{"size": 3, "new": 1}], "share": 1}'


def refused(text: str | bytes) -> str:
    with pytest.raises(RecordError) as caught:
        FORM.parse(text, "here")
    assert isinstance(caught.value, InputError | ValueError)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("here is not an outer thing: ")
    assert message.endswith("; make another")
    return message.removeprefix("here is not an outer thing: ").removesuffix("; make another")


def test_a_document_that_fits_is_read_and_kept_as_it_is() -> None:
    found = FORM.parse(GOOD, "here")
    assert found.value == Outer("a", [Inner(3)], 1.0)
    assert found.raw["inner"] == [{"size": 3, "new": 1}]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"size": 3', '"size": "x"', "inner[0].size should be a valid integer, not 'x'"),
        ('"size": 3', '"size": true', "inner[0].size should be a valid integer, not True"),
        ('"size": 3', '"size": 3.0', "inner[0].size should be a valid integer, not 3.0"),
        ('"size": 3', '"size": -1', "inner[0].size should be greater than or equal to 0, not -1"),
        ('"size": 3', '"size": ' + 30 * "9", f"inner[0].size should be less than or equal to 9007199254740992, not {30 * '9'}"),
        ('"size": 3', '"site": 3', "inner[0].size is missing"),
        ('"share": 1', '"share": NaN', "share should be a finite number"),
        ('"share": 1', '"share": -Infinity', "share should be a finite number"),
        ('"share": 1', '"other": [{}, {"deep": 1e999}]', "other[1].deep should be a finite number"),
        ('"new": 1', '"new": 1, "new": 2', "inner[0] has the key 'new' twice"),
        ('"share": 1', '"name": "b"', "it has the key 'name' twice"),
        ('"a"', '"odd"', "name should not be odd"),
        ('"format": 1', '"format": 2', "it has format 2; this version of foveate reads format 1"),
        ('"format": 1', '"format": true', "it has format True; this version of foveate reads format 1"),
        ('"name": "a"', '"name": 1, "inner": 2, "x": 0', "it has the key 'inner' twice"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(old: str, new: str, said: str) -> None:
    assert refused(GOOD.replace(old, new)) == said


def test_several_faults_are_one_line() -> None:
    assert refused('{"format": 1}') == "name is missing (and 1 more)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff\xfe{}", "not text in UTF-8 (byte 0)"),
        ("{", "not JSON"),
        ("", "not JSON"),
        ("1" * 5000, "not JSON"),
        ('"\\ud800"', "it has format None"),
        ("[" * 200_000, f"more than {DEPTH} levels"),
        ('{"a": ' * 100_000, f"more than {DEPTH} levels"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"more than {DEPTH} levels"),
        ("[" * DEPTH + "]" * DEPTH, "it has format None"),
        ('{"format": 1, "name": "\\ud800", "inner": []}', "hex escape"),
    ],
)
def test_what_is_no_plain_json_is_refused(text: str | bytes, said: str) -> None:
    assert said in refused(text)


def test_brackets_in_strings_are_no_levels() -> None:
    assert ANYTHING.parse('{"a": "' + "[" * 1000 + '\\"' + "{" * 1000 + '"}', "here").raw["a"].count("[") == 1000


def test_values_that_are_no_json_are_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (object(), {"a": {1, 2}}, circle, {"a": float("nan")}):
        with pytest.raises(RecordError):
            ANYTHING.of(value, "this")


def test_only_regular_files_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real").write_text(GOOD)
    assert FORM.read(tmp_path / "link").value.name == "a"

    def opened(*_: Any) -> None:
        raise AssertionError("it was opened")

    monkeypatch.setattr(os, "open", opened)
    for path, said in (
        (tmp_path / "pipe", "it is a pipe and not a regular file"),
        ("/dev/null", "it is a device and not a regular file"),
        (tmp_path, "it is a folder and not a regular file"),
        (tmp_path / "loop", "cannot be read"),
        (tmp_path / "none", "no such file"),
        (tmp_path / "real" / "below", "no such file"),
        (tmp_path / ("a" * 300), "cannot be read"),
        ("a\0b", "cannot be read"),
    ):
        for read in (FORM.read, read_bytes, read_text, read_tensors):
            with pytest.raises(RecordError, match=said):
                read(path)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert len(read_bytes(path, 100)) == 100
    with pytest.raises(RecordError, match="larger than"):
        read_bytes(path, 99)


def test_a_file_of_tensors_is_read_or_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pt")
    assert torch.equal(read_tensors(tmp_path / "good.pt")["a"], torch.ones(2))
    whole = (tmp_path / "good.pt").read_bytes()
    for damaged in (b"", b"x", whole[:100], whole[:-40], whole[:200] + b"\0" * 20 + whole[220:]):
        (tmp_path / "bad.pt").write_bytes(damaged)
        with contextlib.suppress(RecordError):  # a change in padding changes nothing
            read_tensors(tmp_path / "bad.pt")
    with pytest.raises(RecordError, match=r"bad\.pt is damaged, or holds more than tensors"):
        (tmp_path / "bad.pt").write_bytes(b"x")
        read_tensors(tmp_path / "bad.pt")


def test_no_other_module_reads_json_or_pickles() -> None:
    readers = {
        ("json", "load"),
        ("json", "loads"),
        ("torch", "load"),
        ("pickle", "load"),
        ("pickle", "loads"),
        ("yaml", "safe_load"),
        ("yaml", "load"),
    }
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for folder in ("foveate", "benchmarks")
        for file in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in readers
    ]
    assert found
    # Settings of a checkpoint are another library's files, which may hold Infinity.
    assert {place.partition(":")[0] for place in found} == {
        "foveate/files/records.py",
        "foveate/files/yaml.py",
        "foveate/files/checkpoints/files.py",
    }
