"""Runs a command line in children that it kills with SIGKILL after given delays; the last delay, 0, lets one finish.

    python killed_often.py '[[0.5, 1.2, 0], ["labels", "data.parquet", ...]]'

Everything is imported before the first fork, so that the delays fall into the work. Prints, per killed child, how many shards and
how many unfinished files it left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from foveate.cli import main


def child(arguments: list[str]) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(main(arguments))
    return pid


def run(delays: list[float], arguments: list[str]) -> None:
    torch.set_num_threads(1)
    out = Path(arguments[arguments.index("--out") + 1])
    for delay in delays:
        pid = child(arguments)
        if delay:
            while not (out / "labels.json").exists():
                time.sleep(0.01)
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        left = {
            "shards": len(list(out.glob("shard-*"))),
            "unfinished": len(list(out.glob(".*"))),
            "code": os.waitstatus_to_exitcode(status),
        }
        print(json.dumps(left), flush=True)


if __name__ == "__main__":
    run(*json.loads(sys.argv[1]))
