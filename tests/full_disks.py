"""Run command lines in child processes whose files cannot grow beyond a number of bytes.

    python full_disks.py '[[4096, ["labels", "data.parquet", ...]], ...]'

Everything is imported before the first fork. Prints exit code, standard output and standard error of each.
"""

from __future__ import annotations

import json
import os
import sys
import threading

import torch
import transformers  # noqa: F401
from faults import limit

from foveate.cli import main


def run(room: int, arguments: list[str]) -> tuple[int, str, str]:
    pipes = [os.pipe() for _ in range(2)]
    pid = os.fork()
    if pid == 0:
        for number, (_, writing) in enumerate(pipes, start=1):
            os.dup2(writing, number)
        limit(room)
        code = 70
        try:
            code = main(arguments)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    texts = ["", ""]

    def read(number: int) -> None:
        os.close(pipes[number][1])
        with open(pipes[number][0], encoding="utf-8") as answer:
            texts[number] = answer.read()

    readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), texts[0], texts[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([run(room, arguments) for room, arguments in json.loads(sys.argv[1])]))
