"""docs/surroundings.md says what the tests in this folder hold, row by row."""

from __future__ import annotations

import re
from pathlib import Path

from rows import ROWS

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "surroundings.md"


def written() -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    lines = text[text.index("<!-- rows -->") : text.index("<!-- end -->")].strip().splitlines()[3:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_document_has_these_rows_and_verdicts() -> None:
    assert [(cells[0], cells[1].split(",")[0]) for cells in written()] == [(row.name, row.verdict) for row in ROWS]


def test_the_document_says_where_a_test_needs_more_than_the_development_extra() -> None:
    assert [cells[1] for cells in written()] == [row.verdict + (f", test needs {row.needs}" if row.needs else "") for row in ROWS]


def test_what_is_refused_has_a_way_out() -> None:
    assert all(cells[3] for row, cells in zip(ROWS, written(), strict=True) if row.verdict == "refused")


def test_every_row_has_its_tests_and_every_test_its_row() -> None:
    files = [path for path in sorted(HERE.glob("test_*.py")) if path.name != Path(__file__).name]
    there = [name for path in files for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)]
    assert sorted(there) == sorted(name for row in ROWS for name in row.tests)
