"""Two real processes share the work, and their labels are those of one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from label_data import rows, write_parquet

from foveate.explain.labels.label_files import read_info, shards
from foveate.explain.labels.labelling import ranges

Run = Callable[..., tuple[int, str]]


def launch(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "--num_cpu_threads_per_process", "1"]
    return subprocess.run(
        [*command, "-m", "foveate", *map(str, arguments)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_processes_finish_what_one_began(make_labels: Run, small_model: Path, tmp_path: Path) -> None:
    data, alone, shared = write_parquet(tmp_path / "data.parquet", 34), tmp_path / "alone", tmp_path / "shared"
    assert make_labels(data, alone)[0] == 0
    assert make_labels(data, shared)[0] == 0
    removed = shards(shared)[3:]
    for path in removed:
        path.unlink()
    ran = launch("labels", data, "--out", shared, "--model", small_model, "--max-new-tokens", 3)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("34 rows from 34 of 34 samples") == 1
    assert rows(shared) == rows(alone)
    assert read_info(shared) == read_info(alone)


def test_how_samples_are_cut_depends_on_their_number_alone() -> None:
    for samples in (1, 15, 16, 160, 1000, 5000):
        cut = ranges(samples)
        assert [index for own in cut for index in own] == list(range(samples))
        assert max(map(len, cut)) <= 64
        assert len(cut) >= min(samples, 16)
    assert ranges(0) == []
