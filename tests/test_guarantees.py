"""docs/guarantees.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.project

HERE = Path(__file__).parents[1]
PAGE = (HERE / "docs" / "guarantees.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE[PAGE.index("<!-- rows -->") : PAGE.index("<!-- end -->")].splitlines()[3:] if not line.startswith("| **")]


@pytest.mark.parametrize("row", ROWS)
def test_every_promise_is_held_by_a_test_that_exists(row: str) -> None:
    held = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row.split("|")[2])
    assert held, row
    for file, name in held:
        text = (HERE / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(" if name else r"^def test_\w+\(", text, re.MULTILINE), f"{file} has no test {name}"
