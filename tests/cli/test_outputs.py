"""Disks and standard output that are full, closed or cannot show a character: one line, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from explain_labels import labels
from faults import Ended, on_full_disks
from small_model import Run

ROOT = Path(__file__).parents[2]
QUESTION = "what colour is the circle ?"
ASKED = ["{picture}", QUESTION, "--model", "{model}", "--device", "cpu", "--max-new-tokens", "2"]
LABELS = ["labels", "scenes", "--limit", "2", "--model", "{model}", "--max-new-tokens", "2", "--device", "cpu", "--keep-all"]
CASES: dict[str, tuple[int, Sequence[str], str]] = {
    "ask, picture": (20_000, ["ask", *ASKED, "--keep", "8", "--picture", "{out}/old.jpg"], "old.jpg"),
    "ask, report": (500, ["ask", *ASKED, "--keep", "8", "--report", "{out}/old.json"], "old.json"),
    "demo scene": (20_000, ["demo", "scene", "{out}/old.png"], "old.png"),
    "labels, at once": (300, [*LABELS, "--out", "{out}/begun"], "begun/labels.json"),
    "labels, in a shard": (3000, [*LABELS, "--states", "--out", "{out}/shards"], "shards/shard-00000.parquet"),
    "train": (400_000, ["train", "{labels}", "--out", "{out}/trained", "--epochs", "1", "--batch", "8", "--device", "cpu"], "trained/"),
    "demo train": (400_000, ["demo", "train", "{out}/demo", "--steps", "1", "1", "--device", "cpu", "--batch", "4"], "demo/tower.pt"),
    "eval": (100, ["eval", "--suite", "scenes", "--limit", "8", "--out", "{out}/eval"], "eval/run.json"),
    "analyse": (100, ["analyse", "--samples", "2", "--keep", "64", "--seeds", "1", "--out", "{out}/analysis"], "analysis/settings.json"),
}
KEPT = {"shards/labels.json", "demo/recipe.json", "demo/log.jsonl"}
"""What was written whole before the disk was full."""


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, model: Path, picture: Path) -> tuple[Path, dict[str, Ended]]:
    """Every case, run in one process that has imported everything."""
    pytest.importorskip("lmms_eval.evaluator")
    out = tmp_path_factory.mktemp("out")
    for name in ("old.jpg", "old.json", "old.png"):
        (out / name).write_text("old")
    places = {"out": out, "model": model, "picture": picture, "labels": labels(tmp_path_factory.mktemp("some") / "labels", 30)}
    cases = [(room, [word.format(**places) for word in words]) for room, words, _ in CASES.values()]
    return out, dict(zip(CASES, on_full_disks(cases), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_full_disk_is_one_line_that_names_the_file(full: tuple[Path, dict[str, Ended]], case: str) -> None:
    out, ended = full[0], full[1][case]
    assert ended.code == 1, ended.err
    assert ended.out == ""
    errors = [line for line in ended.err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1, ended.err
    assert errors[0].startswith(f"error: cannot write {out}/{CASES[case][2]}")
    assert "File too large" in errors[0]


def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(full: tuple[Path, dict[str, Ended]]) -> None:
    out = full[0]
    there = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    old = {name for name in there if name.startswith("old.")}
    assert len(old) == 3
    assert {there[name].read_text() for name in old} == {"old"}
    assert set(there) - old == KEPT


def program(*arguments: str | bytes, **options: object) -> subprocess.CompletedProcess[bytes]:
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-m", "foveate", *arguments], cwd=ROOT, check=False, **given)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["methods"], ["methods", "--json"]], ids=" ".join)
def test_a_full_standard_output_is_one_line_and_exit_code_1(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as nowhere:
        ended = program(*arguments, stdout=nowhere)
    assert ended.returncode == 1
    assert ended.stderr.startswith(b"error: ")
    assert b"No space left on device" in ended.stderr
    assert ended.stderr.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [["--version"], ["methods", "--json"]], ids=" ".join)
def test_a_closed_standard_output_is_one_line_and_exit_code_1(arguments: list[str]) -> None:
    ended = program(*arguments, stdout=None, preexec_fn=lambda: os.close(1))
    assert ended.returncode == 1
    assert ended.stderr == b"error: cannot write to standard output: it is closed\n"


@pytest.mark.parametrize("stream", ["full", "closed"])
def test_where_nothing_can_be_said_the_exit_code_says_it(stream: str) -> None:
    with open("/dev/full", "wb") as nowhere:
        ended = program("ask", "nope.png", "what ?", stderr=nowhere, preexec_fn=(lambda: os.close(2)) if stream == "closed" else None)
    assert ended.returncode == 1
    assert ended.stdout == b""


PRINT = """
import sys
from foveate.cli import app, console

def command(**_):
    console.put("sch\\u00f6n \\udcff")
    console.put_table(console.listing(["n\\u00e4me"], [["\\u2588"]]))
    console.put_json({"image": "sch\\u00f6n \\udcff"})
    console.note("sch\\u00f6n \\udcff")

sys.modules["foveate.cli.app"].app = command
sys.exit(sys.modules["foveate.cli.app"].main([]))
"""
ENCODINGS = [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONUTF8": "1"}]


@pytest.mark.parametrize("encoding", ENCODINGS, ids=["ascii", "C", "utf-8"])
def test_characters_that_the_output_cannot_show_are_replaced_and_in_json_escaped(encoding: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHONUTF8"))} | encoding
    ended = subprocess.run([sys.executable, "-c", PRINT], env=environment, cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b"Traceback" not in ended.stderr
    text = ended.stdout.decode("utf-8" if "PYTHONUTF8" in encoding and "LC_ALL" not in encoding else "ascii")
    assert text.splitlines()[0] == ("schön \\xff" if "schön" in text else "sch?n \\xff")
    assert json.loads(text[text.index("{") :])["image"] == "schön \udcff"


def test_a_file_whose_name_is_no_text_is_written_and_named_with_its_bytes(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.png"
    shown = program("demo", "scene", path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.decode("ascii").splitlines()[-1].endswith("\\xff.png")
    assert os.path.exists(path)


def test_a_report_takes_no_device_s_place(run: Run, model: Path, picture: Path) -> None:
    result = run(*(word.format(model=model, picture=picture) for word in ["ask", *ASKED]), "--keep", 8, "--report", "/dev/null")
    assert result.code == 1
    assert "no regular file" in result.err
    assert Path("/dev/null").is_char_device()
