"""Disks that are full, and kills at any step of writing, without rights that a test should not need."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


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
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), code
    return code != 0


def _die_at(step: int) -> None:
    """A hook of Python itself sees every change, whoever makes it."""
    seen = -1

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate"):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def on_a_full_disk(
    arguments: Sequence[object], room: int, *, code: str = "import sys; from foveate.cli import main; sys.exit(main(sys.argv[1:]))"
) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process none of whose files can grow beyond `room` bytes, as on a disk that fills up."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails with an error, as it does there
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
