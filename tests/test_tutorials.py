"""The code of README, tutorials and recipes runs as it stands, and prints what the pages show."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_page import blocks

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", DOCS / "index.md", *sorted(DOCS.glob("tutorials/*_*.md")), *sorted(DOCS.glob("how_to/*_*.md"))]


def run(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a page in a process of its own, in an empty folder."""
    command = [sys.executable, str(ROOT / "tests" / "run_page.py"), str(page)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(page: Path, tmp_path: Path) -> None:
    done = run(page, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) == len(list(blocks(page.read_text(encoding="utf-8")))) > 0


@pytest.mark.parametrize(("shown", "fails"), [("2", False), ("3", True)])
def test_a_page_that_shows_another_output_is_seen(shown: str, fails: bool, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n{shown}\n```\n", encoding="utf-8")
    done = run(page, tmp_path)
    assert (done.returncode != 0) == fails
    assert ("page.md:5 prints '2\\n'; the page shows '3\\n'" in done.stderr) == fails
