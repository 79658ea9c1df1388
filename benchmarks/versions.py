"""Runs the core tests on every minor release of transformers in the supported range, and writes docs/versions.md from the results.

python benchmarks/versions.py                    # all releases, in their own virtual environment; about two minutes each
python benchmarks/versions.py --only 5.20.2      # one of them; the others keep their results
python benchmarks/versions.py --table            # the page alone, from committed results
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from datetime import date
from pathlib import Path
from typing import Annotated

import typer

from foveate.engine.versions import NEWEST, OLDEST
from foveate.files.records import ANYTHING
from foveate.files.writing import write_whole

HERE = Path(__file__).parent.parent
ENVIRONMENT = HERE / ".venv-versions"
RESULTS = Path(__file__).parent / "results" / "versions.json"
PAGE = HERE / "docs" / "versions.md"
RELEASES = (OLDEST, "5.17.0", "5.18.0", "5.19.0", "5.20.2", "5.21.1", "5.22.2", "5.23.0", NEWEST)
"""The last patch release of each minor one, and the ends of the range."""
CORE = (
    "tests/engine/test_pruning_equals_masking.py",
    "tests/engine/test_compress.py",
    "tests/engine/test_calls_that_are_refused.py",
    "tests/engine/test_logits_to_keep.py",
    "tests/engine/test_copies_of_a_model.py",
    "tests/engine/test_invariants.py",
    "tests/families/test_turns.py",
    "tests/families/test_second_picture.py",
)
"""Prefill, decoding and a second turn in every family, masked and compressed, and what must be refused."""


TEXT = """\
# Supported versions of transformers

Foveate is tested with transformers {oldest} to {newest}. Continuous integration runs the whole test suite on both ends. The core tests
(compressed equals masked in every family, over two turns; copies, checks, refusals) also run on each minor release between them:

| transformers | passed | failed | skipped | on |
|---|---|---|---|---|
{rows}

`make test-versions` runs them again and rewrites this page. Tests of model classes that a release does not have yet are skipped or absent.

Any other version gives one `UntestedVersionWarning` when a model is compressed. Whatever the version, each prefill and each decoding
step is held to its plan: the length of every cache layer, the sequence that every layer sees, the width of its mask, the order of layers.
These are integers of the host, so no device is waited for. What does not hold raises `ConsistencyError`, which names the installed version,
instead of giving a wrong answer.
"""


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """One command in the repository."""
    return subprocess.run([str(part) for part in command], cwd=HERE, text=True, check=False)


def install(release: str) -> None:
    """Install one release into the environment, with the pinned versions of everything but transformers."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", ENVIRONMENT)
    pins = (HERE / "constraints.txt").read_text(encoding="utf-8").splitlines()
    named = re.compile(r"(transformers|tokenizers|huggingface_hub|hf-xet)==")
    free = ENVIRONMENT / "constraints.txt"
    write_whole(free, "".join(f"{pin}\n" for pin in pins if not named.match(pin)))
    run(python, "-m", "pip", "install", "--quiet", next(pin for pin in pins if pin.startswith("torch==")))
    done = run(python, "-m", "pip", "install", "--quiet", "--constraint", free, "--editable", ".[dev]", f"transformers=={release}")
    if done.returncode:
        sys.exit(f"transformers {release} could not be installed")


def test(release: str) -> dict[str, str | int]:
    """The core tests on one release, counted."""
    report = ENVIRONMENT / "report.xml"
    report.unlink(missing_ok=True)
    run(ENVIRONMENT / "bin" / "python", "-m", "pytest", "--numprocesses", "auto", "--maxprocesses", "4", "--junitxml", report, *CORE)
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")}
    failed, skipped = counts["failures"] + counts["errors"], counts["skipped"]
    return {"date": date.today().isoformat(), "passed": counts["tests"] - failed - skipped, "failed": failed, "skipped": skipped}


def page(results: dict[str, dict[str, str | int]]) -> str:
    """docs/versions.md."""
    rows = [
        f"| {release} | {own['passed']} | {own['failed']} | {own['skipped']} | {own['date']} |"
        for release, own in sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")])
    ]
    return TEXT.format(oldest=OLDEST, newest=NEWEST, rows="\n".join(rows))


def main(
    only: Annotated[str, typer.Option(help="One release instead of all.")] = "",
    table: Annotated[bool, typer.Option(help="Write the page from committed results, and run nothing.")] = False,
) -> None:
    """Test releases of transformers, and write the page."""
    results = ANYTHING.read(RESULTS).raw if RESULTS.exists() else {}
    for release in () if table else [only] if only else RELEASES:
        install(release)
        results[release] = test(release)
        write_whole(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
    write_whole(PAGE, page(results))
    failed = [release for release, own in results.items() if own["failed"]]
    if failed:
        sys.exit(f"tests failed on transformers {', '.join(failed)}")


if __name__ == "__main__":
    typer.run(main)
