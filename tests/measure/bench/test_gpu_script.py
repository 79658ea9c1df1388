"""The benchmark for GPUs runs on a CPU too, at small scale, and survives what breaks a section."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
sys.path.append(str(SCRIPT.parent))  # not in front: tests have modules of the same names

gpu, gpu_sections, gpu_tables, gpu_tests = map(import_module, ("gpu", "gpu_sections", "gpu_tables", "gpu_tests"))

pytestmark = pytest.mark.project


def run(out: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(SCRIPT), "--small", "--device", "cpu", "--out", str(out), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8"))


def test_it_runs_at_small_scale_and_writes_what_the_page_shows(tmp_path: Path) -> None:
    data = run(tmp_path / "gpu.json", "--sections", "waits,prefill,relevance,information")
    assert {name: each["state"] for name, each in data["sections"].items()} == dict.fromkeys(data["sections"], "done")
    assert data["environment"]["torch"] == torch.__version__
    names = [row["name"].split("(")[0] for row in data["sections"]["prefill"]["results"]["groups"][0]["rows"]]
    assert names[0] == "full"
    assert {"FastV", "TokenCarve", "Explainer"} <= set(names)
    page = gpu_tables.page(data)
    for text in ("| FastV | 2 | 8 of 36 |", "foveate.relevance", "| 8 | 64 x 128 | exact |", "Not counted"):
        assert text in page, text
    assert str(tmp_path) not in json.dumps(data)


def test_a_section_that_cannot_start_any_more_says_so(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu._measure(out, ["waits", "information"], time.time() - 1, 300, small=True, device="cpu")
    data = json.loads(out.read_text(encoding="utf-8"))
    assert [each["state"] for each in data["sections"].values()] == ["skipped"] * 2
    assert gpu_tables.page(data).count("This section has no figures: no time was left.") == 2


def test_a_section_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(card: Any, keep: Any) -> dict[str, Any]:
        keep({"half": 1})
        raise RuntimeError("the kernel is unwell")

    works = gpu_sections.Section(lambda card, keep: {"all": 2}, 0, timed=False)
    monkeypatch.setattr(gpu, "SECTIONS", {"bad": gpu_sections.Section(fails, 0, timed=False), "good": works})
    out = tmp_path / "gpu.json"
    gpu._write(out, {"sections": {}})
    gpu._work(out, ["bad", "good"], time.time() + 60, small=True, device="cpu")
    found = json.loads(out.read_text(encoding="utf-8"))["sections"]
    assert (found["bad"]["state"], found["bad"]["reason"]) == ("failed", "RuntimeError: the kernel is unwell")
    assert found["bad"]["results"] == {"half": 1}
    assert (found["good"]["state"], found["good"]["results"]) == ("done", {"all": 2})


def test_a_process_that_ends_is_replaced_by_one_for_the_sections_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, started = tmp_path / "gpu.json", []

    class Worker:
        stdin = None

        def __init__(self, command: list[str], **options: Any) -> None:
            started.append(command[command.index("--sections") + 1])
            if len(started) == 1:
                gpu._merge(out, "a", {"state": "done", "results": {}})
                gpu._merge(out, "b", {"state": "started", "results": {"half": 1}})

        def wait(self, timeout: float | None = None) -> int:
            return -11 if len(started) == 1 else 0

    monkeypatch.setattr(gpu.subprocess, "Popen", Worker)
    gpu._measure(out, ["a", "b", "c"], time.time() + 60, 60, small=True, device="cpu")
    assert started == ["a,b,c", "c"]
    found = json.loads(out.read_text(encoding="utf-8"))["sections"]
    assert found["b"] == {"state": "failed", "results": {"half": 1}, "reason": "the process ended with code -11"}


def test_what_failed_in_the_tests_is_named() -> None:
    report = """<testsuites><testsuite tests="3" failures="1" errors="0" skipped="1"><testcase classname="tests.a" name="good"/>
    <testcase classname="tests.a" name="bad"><failure message="AssertionError: 1
    is not 2">long</failure></testcase><testcase classname="tests.a" name="left out"><skipped/></testcase></testsuite></testsuites>"""
    found = gpu_tests.read_report(report)
    assert found == {
        "passed": 1,
        "failed": 1,
        "skipped": 1,
        "which": [{"test": "tests.a::bad", "reason": "AssertionError: 1 is not 2"}],
    }
    assert gpu_tables.tests(found) == ["1 passed, 1 failed, 1 skipped (`pytest -m gpu`).", "* `tests.a::bad`: AssertionError: 1 is not 2"]


def test_tests_that_were_ended_count_as_far_as_they_came() -> None:
    lines = ["a.py::good[x y] PASSED [ 10%]", "a.py::bad FAILED [ 20%]", "a.py::none SKIPPED (needs a GPU) [ 30%]", "a.py::now "]
    output = "\n".join(f"tests/{line}" for line in lines)
    failed = [{"test": "tests/a.py::bad", "reason": "see the output"}]
    assert gpu_tests.read_progress(output) == {"passed": 1, "failed": 1, "skipped": 1, "which": failed}


def test_every_section_has_a_table() -> None:
    assert sorted([gpu.TESTS, *gpu_sections.SECTIONS]) == sorted(gpu_tables.WRITERS)


def test_every_test_for_a_gpu_has_the_one_marker() -> None:
    other = "skipif(not torch.cuda"  # joined below, so that this file does not find itself
    found = [path.name for path in (ROOT / "tests").rglob("test_*.py") if "mark." + other in path.read_text(encoding="utf-8")]
    assert not found, "use pytest.mark.gpu"
