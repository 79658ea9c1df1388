"""Runs the code of a page as a reader would who pastes it block by block, and compares what is printed with what the page shows.

Usage: python tests/run_page.py PAGE, in an empty folder. Blocks of `python` share one session; lines of `console` blocks are commands of
foveate. A block of `text` shows what the block before it prints. Blocks whose title says what they need are not run.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```(python|console|text)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = 'title="needs '


def blocks(page: str) -> Iterator[tuple[str, str, str | None, int]]:
    """Language, code, shown output and line of each block that is run."""
    found = [(match[1], match[2], match[3], page[: match.start()].count("\n") + 1) for match in BLOCK.finditer(page)]
    for place, (language, title, code, line) in enumerate(found):
        if language != "text" and NOT_RUN not in title:
            follows = found[place + 1] if place + 1 < len(found) else None
            yield language, code, follows[2] if follows and follows[0] == "text" else None, line


def run_python(code: str, names: dict[str, Any], where: str) -> str:
    """What a block prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, where, "exec"), names)
    return printed.getvalue()


def run_console(code: str) -> str:
    """What the commands of a block print."""
    printed = ""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            assert words[0] == "foveate", f"{line}: not a command of foveate"
            printed += subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True, text=True).stdout
    return printed


def main(path: Path) -> int:
    """Run every block; returns how many there were."""
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for language, code, shown, line in blocks(path.read_text(encoding="utf-8")):
        where = f"{path.name}:{line}"
        printed = run_python(code, names, where) if language == "python" else run_console(code)
        if shown is not None:
            assert printed == shown, f"{where} prints {printed!r}; the page shows {shown!r}"
        count += 1
    return count


if __name__ == "__main__":
    print(main(Path(sys.argv[1])), "blocks")
