"""What the benchmark scripts share: where results go, and on what they were measured."""

from __future__ import annotations

import atexit
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foveate.files.locks import claimed_file
from foveate.files.records import ANYTHING, RecordSchema
from foveate.files.writing import make_folder, write_whole
from foveate.measure.facts import facts

RESULTS = Path(__file__).parent / "results"


def progress_bar() -> Progress:
    """A bar on stderr with counts and the time that remains."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def save(name: str, results: dict[str, Any]) -> Path:
    """Write one benchmark's results with their environment."""
    make_folder(RESULTS)
    path = RESULTS / f"{name}.json"
    write_whole(path, json.dumps({"environment": facts(), **results}, indent=1) + "\n")
    return path


@dataclass(frozen=True)
class _State:
    """As `Done` writes it."""

    settings: dict[str, Any]
    pairs: dict[str, dict[str, Any]]


_STATE: RecordSchema[_State] = RecordSchema("what a benchmark has measured so far", _State, remedy="remove it to start anew")


@dataclass
class Done:
    """What a long benchmark has measured so far, kept in a file as long as the settings are the same."""

    path: Path
    settings: dict[str, Any]
    pairs: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, name: str, settings: dict[str, Any]) -> Done:
        """Take up the file's, if it is of the same settings; nobody else may write to it until this process ends."""
        path = make_folder(RESULTS) / f"{name}.partial.json"
        held = ExitStack()
        held.enter_context(claimed_file(path))
        atexit.register(held.close)
        if path.exists():
            state = _STATE.read(path).value
            if state.settings == settings:
                return cls(path, settings, state.pairs)
        return cls(path, settings, {})

    def add(self, key: str, result: dict[str, Any]) -> None:
        """Keep one result; a kill leaves the old file or the new one."""
        self.pairs[key] = result
        write_whole(self.path, json.dumps({"settings": self.settings, "pairs": self.pairs}))

    def forget(self) -> None:
        """The benchmark is through, and its results are saved."""
        self.path.unlink(missing_ok=True)


def percent(value: float, digits: int = 0, *, sign: bool = False) -> str:
    """A share as percent."""
    return f"{value * 100:{'+' if sign else ''}.{digits}f} %"


def interval(cell: Mapping[str, float]) -> str:
    """A share with its 95 % interval."""
    return f"{cell['share'] * 100:.1f} % ({cell['low'] * 100:.1f} to {cell['high'] * 100:.1f})"


def label(name: str) -> str:
    """What a table calls a method, from its repr."""
    return name.split("(")[0] + (", fast information" if "information='fast'" in name else "")


def load(name: str) -> dict[str, Any]:
    """Read what `save` wrote."""
    data: dict[str, Any] = ANYTHING.read(RESULTS / f"{name}.json").raw
    return data
