"""README and docs: their figures are those of the committed results, their tables those of the code, and their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from test_layers import LAYERS

import foveate

pytestmark = pytest.mark.project

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "foveate").rglob("*.md"), ROOT / "findings" / "README.md"])


def test_figures_and_tables_are_those_of_the_results_and_of_the_code() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@cache
def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """What a link to a heading of the page may say after its #."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def wrong(page: Path, link: str) -> bool:
    """Whether a link leads to no file, or to no heading of it."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return not target.exists() or (bool(anchor) and target.suffix == ".md" and anchor not in anchors(target))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)", prose(page))
    assert not [link for link in links if "://" not in link and wrong(page, link)]


def test_a_wrong_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One, two\n\n```\n# no heading\n```\n", encoding="utf-8")
    assert [wrong(page, link) for link in ("page.md", "#one-two", "page.md#one-two")] == [False] * 3
    assert [wrong(page, link) for link in ("other.md", "#no-heading", "page.md#three")] == [True] * 3


def table(page: Path, name: str) -> list[list[str]]:
    """Cells of the rows of the table between `<!-- NAME -->` and `<!-- end -->`, without its head."""
    text = page.read_text(encoding="utf-8")
    found = text[text.index(f"<!-- {name} -->") :]
    lines = [line for line in found[: found.index("<!-- end -->")].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_room_is_on_the_map_in_the_order_of_the_layers() -> None:
    rows = table(ROOT / "docs" / "how_it_works.md", "rooms")
    assert [tuple(re.findall(r"`(\w+)`", row[0])) for row in rows] == list(LAYERS)
    assert all(row[1] for row in rows)


def test_the_files_to_read_first_are_there() -> None:
    text = (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")
    listed = re.findall(r"`((?:foveate|tests)/[\w/]+(?:\.py|/))`", text[text.index("<!-- reading order -->") :])
    assert len(listed) > 10
    assert not [file for file in listed if not (ROOT / file).exists()]


def test_every_public_name_is_in_the_reference() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    listed = set(re.findall(r"^::: foveate\.(\w+)$", text, re.MULTILINE))
    assert listed >= {name for name in foveate.__all__ if not name.startswith("_")}
