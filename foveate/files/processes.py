"""Processes that share a piece of work; the first does what only one may do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from foveate.errors import FoveateError
from foveate.files.locks import claimed_folder

__all__ = ["SingleProcess", "ProcessGroup", "by_the_first", "claimed_by_the_first"]


class ProcessGroup(Protocol):
    """The processes that share the work, with the interface of `accelerate.PartialState`."""

    @property
    def process_index(self) -> int: ...

    @property
    def num_processes(self) -> int: ...

    def wait_for_everyone(self) -> None: ...


@dataclass(frozen=True)
class SingleProcess:
    """A single process, without `accelerate`."""

    process_index: int = 0
    num_processes: int = 1

    def wait_for_everyone(self) -> None:
        """Returns at once: there is no other process."""


def by_the_first(group: ProcessGroup, act: Callable[[], object]) -> None:
    """Let the first process do something while the others wait; an error in it is raised in all.

    Raises:
        FoveateError: what `act` raises in the first process, raised in every process, so that none waits forever.
    """
    refusal: FoveateError | None = None
    if group.process_index == 0:
        try:
            act()
        except FoveateError as error:
            refusal = error
    if group.num_processes > 1:
        from accelerate.utils import broadcast_object_list

        (refusal,) = broadcast_object_list([refusal])
    if refusal is not None:
        raise refusal


@contextmanager
def claimed_by_the_first(group: ProcessGroup, folder: Path) -> Iterator[None]:
    """Lock a folder for a group of processes, as `foveate.files.locks.claimed_folder` does for one.

    Raises:
        BusyError: a process of another group holds it.
        WriteError: it cannot be created or written.
    """
    with ExitStack() as held:
        by_the_first(group, lambda: held.enter_context(claimed_folder(folder)))
        yield
