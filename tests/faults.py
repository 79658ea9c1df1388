"""Disks that are full, and kills at any step of writing, without rights that a test should not need."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate")


def killed_at(step: int, write: Callable[[], object]) -> bool:
    """Write in a child process that kills itself before its `step`-th change of the disk; `False` where it got through without."""
    pid = os.fork()
    if pid == 0:
        try:
            _die_at(step)
            write()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def _die_at(step: int) -> None:
    """An audit hook of Python sees every change, no matter what makes it."""
    seen = -1

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in _CHANGES:
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def with_little_room(room: int, write: Callable[[], object]) -> str:
    """Write in a child process none of whose files can grow beyond `room` bytes, as on a disk that fills up; the error's kind and text."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = ""
        try:
            limit(room)
            write()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:
        text = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return text


def limit(room: int) -> None:
    """Let no file of this process grow beyond `room` bytes; writing more is an error, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))


@dataclass(frozen=True)
class Ended:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str


def on_full_disks(cases: Sequence[tuple[int, Sequence[object]]]) -> list[Ended]:
    """Run command lines one after the other, each with so little room; see `full_disks.py`."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "full_disks.py"), json.dumps([(room, [*map(str, words)]) for room, words in cases])],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return [Ended(*each) for each in json.loads(ran.stdout)]
