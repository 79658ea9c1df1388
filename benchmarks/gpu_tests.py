"""Runs the tests that are marked for a GPU, in a process beside the benchmark, and reads what came out."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT = 100.0
"""Seconds after which the tests are ended; what they found until then counts."""


class GpuTests:
    """Tests that are running.

    Args:
        process: pytest.
        folder: where it writes its report.
        limit: seconds after which it is ended.
    """

    def __init__(self, process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str], limit: float) -> None:
        self._process, self._folder, self._started = process, folder, time.time()
        self._end = self._started + limit
        self._lock, self._found = threading.Lock(), None

    def finish(self) -> dict[str, Any]:
        """Wait for them, and return their state, counts, and what failed."""
        with self._lock:
            if self._found is None:
                self._found = self._finish()
            return self._found

    def stop(self) -> None:
        """End them if they still run."""
        if self._process.poll() is None:
            self._process.kill()

    def _finish(self) -> dict[str, Any]:
        try:
            output = self._process.communicate(timeout=max(1.0, self._end - time.time()))[0]
            reason = f"pytest ended with code {self._process.returncode}"
        except subprocess.TimeoutExpired:
            self._process.kill()
            output, reason = self._process.communicate()[0], "the tests took too long"
        seconds = round(time.time() - self._started, 1)
        report = Path(self._folder.name) / "junit.xml"
        found = read_report(report.read_text(encoding="utf-8")) if report.exists() else None
        self._folder.cleanup()
        if found is None:
            tail = "\n".join(output.splitlines()[-30:]).replace(str(ROOT), ".")
            return {"state": "failed", "reason": reason, "seconds": seconds, "results": read_progress(output), "output": tail}
        return {"state": "done", "seconds": seconds, "results": found}


def start_gpu_tests(end: float, *, whole: bool) -> GpuTests:
    """Start them; `whole` false takes the smallest file alone, to see that it works."""
    marked = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text(encoding="utf-8")]
    files = [str(path.relative_to(ROOT)) for path in (marked if whole else sorted(marked, key=lambda path: path.stat().st_size)[:1])]
    folder = tempfile.TemporaryDirectory()
    report = str(Path(folder.name) / "junit.xml")
    # In one process: each would load CUDA again.
    options = ["-m", "gpu", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=", "-v", "--tb=short", f"--junitxml={report}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *files], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return GpuTests(process, folder, min(end - time.time(), LIMIT))


def read_progress(output: str) -> dict[str, Any]:
    """Counts, and the names of what failed, of tests that were ended, from the lines that pytest -v wrote until then."""
    found = re.findall(r"^(\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", output, re.MULTILINE)
    counts = Counter(outcome for _, outcome in found)
    failed = [{"test": name, "reason": "see the output"} for name, outcome in found if outcome in ("FAILED", "ERROR")]
    return {"passed": counts["PASSED"], "failed": len(failed), "skipped": counts["SKIPPED"], "which": failed}


def read_report(text: str) -> dict[str, Any]:
    """Counts, and the names and first lines of what failed, of a report in JUnit's form that pytest wrote."""
    suite = next(ET.fromstring(text).iter("testsuite"))
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [
        {"test": f"{case.get('classname')}::{case.get('name')}", "reason": re.sub(r"\s+", " ", problem.get("message") or "")[:600]}
        for case in suite.iter("testcase")
        for problem in (*case.findall("failure"), *case.findall("error"))
    ]
    passed = counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"]
    return {"passed": passed, "failed": counts["failures"] + counts["errors"], "skipped": counts["skipped"], "which": failed}
