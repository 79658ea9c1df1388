"""No command writes over what it reads, by whatever name, nor to what is no regular file; and it says so before it does anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_model import Run

from foveate.chat import models
from foveate.files.paths import same_file

pytestmark = pytest.mark.one_version

QUESTION = "what colour is the circle ?"


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""
    monkeypatch.setattr(models, "load_model", None)


@pytest.fixture
def inputs(tmp_path: Path, picture: Path, model: Path) -> Path:
    """A folder with a picture, a report, results, and a model."""
    shutil.copy(picture, tmp_path / "in.png")
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text("{}")
    shutil.copytree(model, tmp_path / "model")
    return tmp_path


COMMANDS = {
    "the picture asked about": ("in.png", ["ask", "in.png", QUESTION, "--picture", "{out}.png"]),
    "the picture asked about, by a report": ("in.png", ["ask", "in.png", QUESTION, "--report", "{out}.png"]),
    "the model's configuration": ("model/config.json", ["ask", "in.png", QUESTION, "--model", "model", "--report", "{out}.json"]),
    "the picture explained": ("in.png", ["explain", "in.png", QUESTION, "--picture", "{out}.png"]),
    "the picture drawn over": ("in.png", ["draw", "report.json", "in.png", "{out}.png"]),
    "the report drawn": ("report.json", ["draw", "report.json", "in.png", "{out}.png"]),
    "the results of a page": ("run/results.json", ["report", "run/results.json", "--out", "{out}.html"]),
    "the results in a folder of a page": ("run/results.json", ["report", "run", "--out", "{out}.html"]),
    "the model that is measured": ("model/config.json", ["bench", "--model", "model", "--out", "{out}.json"]),
}


@pytest.mark.parametrize("link", ["hard", "symbolic", "through a folder"])
@pytest.mark.parametrize(("target", "arguments"), COMMANDS.values(), ids=COMMANDS.keys())
def test_an_input_is_not_replaced_under_another_name(
    run: Run, inputs: Path, monkeypatch: pytest.MonkeyPatch, target: str, arguments: list[str], link: str
) -> None:
    monkeypatch.chdir(inputs)
    before = (inputs / target).read_bytes()
    ending = next(argument for argument in arguments if argument.startswith("{out}")).removeprefix("{out}")
    if link == "through a folder":
        (inputs / "there").symlink_to(inputs / Path(target).parent)
        out = f"there/{Path(target).stem}"
        if ending != Path(target).suffix:
            pytest.skip("the name says what to write")
    else:
        out = "other"
        os.link(inputs / target, f"other{ending}") if link == "hard" else (inputs / f"other{ending}").symlink_to(inputs / target)
    result = run(*(argument.format(out=out) for argument in arguments))
    assert result.code == 1
    assert "would replace the input" in result.err
    assert (inputs / target).read_bytes() == before


def test_two_outputs_are_not_one_file(run: Run, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)
    (inputs / "first.png").write_bytes(b"")
    os.link("first.png", "second.png")
    result = run("ask", "in.png", QUESTION, "--picture", "first.png", "--report", "second.png")
    assert result.code == 1
    assert "would replace another output" in result.err


PLACES = {
    "a pipe": lambda path: os.mkfifo(path),
    "a link that leads nowhere": lambda path: path.symlink_to(path.with_name("gone")),
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to(os.devnull),
}


@pytest.mark.parametrize("make", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", "in.png", QUESTION, "--picture", "{out}"],
        ["ask", "in.png", QUESTION, "--report", "{out}"],
        ["explain", "in.png", QUESTION, "--picture", "{out}"],
        ["draw", "report.json", "in.png", "{out}"],
        ["demo", "scene", "{out}"],
    ],
)
def test_what_is_no_regular_file_is_not_written_to(
    run: Run, inputs: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], make: Callable[[Path], object]
) -> None:
    monkeypatch.chdir(inputs)
    make(inputs / "out.png")
    result = run(*(argument.format(out="out.png") for argument in arguments))
    assert result.code == 1
    assert "cannot write" in result.err
    assert result.err.count("\n") == 1
    assert not (inputs / "gone").exists()


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "nul\0l.png"])
def test_a_name_that_no_file_can_have_is_refused(run: Run, inputs: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(inputs)
    for arguments in (["ask", "in.png", QUESTION, "--picture", name], ["ask", name, QUESTION], ["demo", "scene", name]):
        result = run(*arguments)
        assert result.code in (1, 2)
        assert "Traceback" not in result.err
        assert result.code == 2 or (result.err.count("\n") == 1 and len(result.err) < 400)


def test_files_are_the_same_by_any_name_and_others_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).write_text(name)
    os.link("a", "hard")
    Path("soft").symlink_to("a")
    Path("loop").symlink_to("loop")
    for other in ("a", "./a", str(tmp_path / "a"), "hard", "soft"):
        assert same_file(Path("a"), Path(other))
    for other in ("b", "gone", "loop", "nul\0l"):
        assert not same_file(Path("a"), Path(other))
    assert same_file(Path("gone"), Path("./gone"))
