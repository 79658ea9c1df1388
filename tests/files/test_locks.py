"""Folders and files of results are held by one process at a time, and by none that is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.cli import main
from foveate.errors import BusyError, WriteError
from foveate.files.locks import LOCK, check_free, claimed_file, claimed_folder

HOLD = """
import sys, time
from pathlib import Path
from foveate.files.locks import claimed_folder

with claimed_folder(Path(sys.argv[1])):
    (Path(sys.argv[1]) / ".model.bin.12345.part").write_text("half")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_held_by_one_and_free_again_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    with claimed_folder(folder):
        with pytest.raises(BusyError, match=f"another process is writing to {folder}"), claimed_folder(folder):
            pass
        with pytest.raises(BusyError):
            check_free(folder)
    check_free(folder)
    assert os.listdir(folder) == []
    with claimed_folder(folder):
        pass


def test_a_file_is_locked_by_one_process_and_leaves_no_other_file(tmp_path: Path) -> None:
    with claimed_file(tmp_path / "bench.json"):
        with pytest.raises(BusyError, match=r"writing to .*bench\.json"), claimed_file(tmp_path / "bench.json"):
            pass
    assert os.listdir(tmp_path) == []


def test_looking_whether_a_folder_is_free_makes_none(tmp_path: Path) -> None:
    check_free(tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_a_claim_dies_with_its_process_and_the_next_one_clears_what_that_left(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError):
        check_free(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / ".model.bin.12345.part").exists()
    check_free(tmp_path)
    with claimed_folder(tmp_path):
        assert os.listdir(tmp_path) == [LOCK]


def test_a_folder_that_cannot_be_written_is_no_busy_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="cannot write"), claimed_folder(tmp_path / "file"):
        pass


SCENES = ["--suite", "scenes", "--methods", "fastv", "--keep", "96", "--limit", "8"]
COMMANDS = {
    "labels": ["labels", "scenes", "--out", "{out}", "--limit", "8"],
    "train": ["train", "{labels}", "--out", "{out}", "--epochs", "1", "--device", "cpu"],
    "demo train": ["demo", "train", "{out}", "--steps", "1", "1", "--device", "cpu"],
    "eval": ["eval", *SCENES, "--out", "{out}"],
    "analyse": ["analyse", "--samples", "8", "--out", "{out}"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_run_on_a_folder_is_refused_with_one_line_and_changes_nothing(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from explain_labels import labels

    if command == "eval":
        pytest.importorskip("lmms_eval.evaluator")
    places = {"out": tmp_path / "run", "labels": tmp_path / "labels"}
    if command == "train":
        labels(places["labels"], 20)
    with claimed_folder(places["out"]):
        (places["out"] / ".theirs.123.part").touch()
        capfd.readouterr()
        assert main([word.format(**places) for word in COMMANDS[command]]) == 1
        out, err = capfd.readouterr()
        assert sorted(os.listdir(places["out"])) == [LOCK, ".theirs.123.part"]
    errors = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(errors) == 1, err
    assert errors[0].startswith(f"error: another process is writing to {places['out']}")
    assert out == ""


def test_a_second_bench_into_a_file_is_refused_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with claimed_file(tmp_path / "bench.json"):
        assert main(["bench", "--model", "demo", "--methods", "none", "--repeats", "1", "--out", str(tmp_path / "bench.json")]) == 1
    out, err = capfd.readouterr()
    assert err.startswith("error: another process is writing to")
    assert err.count("\n") == 1
    assert out == ""
    assert os.listdir(tmp_path) == []
