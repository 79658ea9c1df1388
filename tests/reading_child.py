"""Reads files in a process of its own, so that a reader that ends its process is seen: `outcomes`. As a program, reads one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

READ, REFUSED = "read", "refused"


def outcomes(folder: Path, kind: str) -> dict[str, str]:
    """The outcome for every file of a folder: `READ`, `REFUSED` and the reason, or the name of an exception that is not foveate's.

    Args:
        folder: of files.
        kind: "picture" or "video".

    Raises:
        AssertionError: the process died; the message names the file.
    """
    done = run([__file__, kind, str(folder)])
    began, ended = [], {}
    for line in done.stdout.splitlines():
        word, name, *rest = json.loads(line)
        if word == "begin":
            began.append(name)
        else:
            ended[name] = rest[0]
    assert done.returncode == 0, f"the reader ended its process with {done.returncode} at {began[-1:]}: {done.stderr[-500:]}"
    return ended


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """A Python process that finds this package and these tests."""
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")])
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, check=False)


def read(kind: str, path: Path) -> str:
    """One file, through our guard."""
    from foveate.errors import FoveateError
    from foveate.images import load_image
    from foveate.video import read_frames

    try:
        images = [load_image(path).image] if kind == "picture" else read_frames(path, 3).images
    except FoveateError as error:
        return f"{REFUSED}: {error}"
    except Exception as error:  # what this is about: it must be none of these
        return f"{type(error).__name__}: {error}"
    assert images
    assert all(image.mode == "RGB" for image in images)
    return READ


def main(kind: str, folder: str) -> None:
    for path in sorted(Path(folder).iterdir()):
        print(json.dumps(["begin", path.name]), flush=True)
        print(json.dumps(["end", path.name, read(kind, path)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
