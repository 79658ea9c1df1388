"""A run that is killed at any point resumes with nothing lost and nothing duplicated."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from label_data import rows, write_parquet

from foveate.explain.labels.label_files import ShardWriter, read_info
from foveate.files.writing import leftovers

Run = Callable[..., tuple[int, str]]

SAMPLES, KILLS = 48, 6


def test_a_run_that_is_killed_again_and_again_ends_with_the_labels_of_one_that_was_not(small_model: Path, tmp_path: Path) -> None:
    truth = [None if index % 3 else ["never said"] for index in range(SAMPLES)]
    data, whole, pieces = write_parquet(tmp_path / "data.parquet", SAMPLES, answer=truth), tmp_path / "whole", tmp_path / "pieces"
    chance = random.Random(7)
    shares = [chance.uniform(0.02, 0.5) for _ in range(KILLS)]
    arguments = ["labels", data, "--out", pieces, "--model", small_model, "--max-new-tokens", 3, "--device", "cpu"]
    ran = subprocess.run(
        [
            sys.executable,
            str(Path(__file__).parents[1] / "killed_often.py"),
            json.dumps([shares, [str(one) for one in arguments], str(whole)]),
        ],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    left = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
    assert left[-1]["code"] == 0, ran.stderr
    killed = [one for one in left if one["code"] == -signal.SIGKILL]
    assert len(killed) > KILLS // 2, "most runs had ended before they were to be killed"
    assert any(one["shards"] < left[-1]["shards"] for one in killed), "nothing was left to do after any kill"
    assert rows(pieces) == rows(whole)
    assert len({row["id"] for row in rows(pieces)}) == len(rows(pieces)) == SAMPLES - SAMPLES // 3
    assert read_info(pieces) == read_info(whole)
    assert not list(leftovers(pieces))


def test_a_half_written_file_is_ignored_and_removed(make_labels: Run, tmp_path: Path) -> None:
    data, out = write_parquet(tmp_path / "data.parquet", 3), tmp_path / "labels"
    assert make_labels(data, out)[0] == 0
    whole = rows(out)
    (out / "shard-00001.parquet").rename(out / ".shard-00001.parquet.123.part")
    (out / ".labels.json.123.part").write_text("{")
    (out / "skipped.jsonl").unlink()
    assert make_labels(data, out)[0] == 0
    assert rows(out) == whole
    assert not list(leftovers(out))
    assert (out / "skipped.jsonl").read_text() == ""


def test_an_interrupted_shard_leaves_no_file(make_labels: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = write_parquet(tmp_path / "data.parquet", 40), tmp_path / "labels"
    kept, calls = ShardWriter.keep, []

    def interrupted(self: ShardWriter, found: list[object]) -> None:
        calls.append(found)
        if len(calls) == 4:
            raise KeyboardInterrupt
        kept(self, found)  # type: ignore[arg-type]

    monkeypatch.setattr(ShardWriter, "keep", interrupted)
    assert make_labels(data, out)[0] == 130
    assert [path.name for path in out.glob("*shard*")] == ["shard-00000.parquet"]
    monkeypatch.undo()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert make_labels(data, out)[0] == 0
    assert [int(row["id"][:9]) for row in rows(out)] == list(range(40))
