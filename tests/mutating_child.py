"""Reads files that were harmlessly damaged: cut off, or with some bytes replaced. As a program, so that a reader's end is seen.

It prints how many files were tried and read.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading_child import READ, REFUSED, read


def damage(whole: Path, kind: str, examples: int, there: Path) -> tuple[int, int]:
    """Read a file that was damaged in `examples` ways, the same ones each time; gives how many were tried and read."""
    content = whole.read_bytes()
    damaged = there / whole.name
    outcomes: list[bool] = []

    @settings(max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        length=st.one_of(st.just(len(content)), st.integers(1, len(content))),
        flips=st.dictionaries(st.integers(0, len(content) - 1), st.integers(0, 255), max_size=8),
    )
    def check(length: int, flips: dict[int, int]) -> None:
        changed = bytearray(content)
        for place, value in flips.items():
            changed[place] = value
        damaged.write_bytes(changed[:length])
        found = read(kind, damaged)
        assert found.startswith((READ, REFUSED)), f"{whole.name} cut to {length} bytes with {flips}: {found}"
        outcomes.append(found == READ)

    check()
    return len(outcomes), sum(outcomes)


def main(kind: str, folder: str, examples: str) -> None:
    with tempfile.TemporaryDirectory() as there:
        found = [damage(whole, kind, int(examples), Path(there)) for whole in sorted(Path(folder).iterdir())]
    print(sum(tried for tried, _ in found), sum(good for _, good in found))


if __name__ == "__main__":
    main(*sys.argv[1:])
