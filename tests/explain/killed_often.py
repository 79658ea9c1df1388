"""Runs a command line in children that end themselves with SIGKILL after a share of a whole run's work; the last one is let finish.

    python killed_often.py '[[0.1, 0.4], ["labels", "data.parquet", ..., "--out", "pieces"], "whole"]'

Work is counted in samples kept, and in files of the folder opened, renamed and removed, so how fast the machine is does not matter. A
first child makes the labels in the folder "whole" and counts. Everything is imported before the first fork. Prints, per child, how many
shards and how many unfinished files it left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import datasets  # noqa: F401
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: F401

from foveate.cli import main
from foveate.explain.labels.label_files import ShardWriter


class Count:
    """Counts what is done to a folder, and ends the process with SIGKILL just before one of these things."""

    def __init__(self, folder: Path, last: int | None) -> None:
        self.last, self.events = last, 0
        self._folder = os.path.join(folder, "")
        keep = ShardWriter.keep

        def counted(writer: ShardWriter, found: Any) -> None:
            self.one_more()
            keep(writer, found)

        ShardWriter.keep = counted  # type: ignore[method-assign]
        sys.addaudithook(self._audited)

    def _audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(self._folder):
            self.one_more()

    def one_more(self) -> None:
        self.events += 1
        if self.events == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def child(arguments: list[str], last: int | None) -> tuple[int, int]:
    """Run a command line; gives the exit code, negative for a signal, and how many events there were, if it was not killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        count = Count(Path(arguments[arguments.index("--out") + 1]), last)
        code = main(arguments)
        os.write(writing, str(count.events).encode())
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        events = int(pipe.read() or 0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), events


def run(shares: list[float], arguments: list[str], whole: str) -> None:
    torch.set_num_threads(1)
    place = arguments.index("--out") + 1
    out = Path(arguments[place])
    code, events = child([*arguments[:place], whole, *arguments[place + 1 :]], None)
    assert code == 0, "the run that was not killed failed"
    for share in [*shares, None]:
        code, _ = child(arguments, None if share is None else max(1, round(share * events)))
        left = {"shards": len(list(out.glob("shard-*"))), "unfinished": len(list(out.glob(".*"))), "code": code}
        print(json.dumps(left), flush=True)


if __name__ == "__main__":
    run(*json.loads(sys.argv[1]))
