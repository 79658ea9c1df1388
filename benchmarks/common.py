"""What the benchmark scripts share: where results go, and what they were measured on."""

from __future__ import annotations

import atexit
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from foveate.files.records import ANYTHING, RecordSchema
from foveate.files.writing import make_folder, write_whole
from foveate.measure.facts import facts
from foveate.measure.store import ResultStore, check_same

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
class _EarlierState:
    """The single file in which earlier versions saved the finished parts of a stopped benchmark."""

    settings: dict[str, Any]
    pairs: dict[str, Any]


_RESULT: RecordSchema[Any] = RecordSchema("a finished part of a benchmark", dict[str, Any] | list[Any], remedy="remove it to start again")
_EARLIER: RecordSchema[_EarlierState] = RecordSchema(
    "what a benchmark has measured so far", _EarlierState, remedy="remove it to start again"
)


def finished(name: str, settings: dict[str, Any]) -> ResultStore:
    """The finished parts of a long benchmark, by name, held by this process until it ends.

    Raises:
        InputError: they are of other settings; remove their folder to start again.
        BusyError: another process holds them.
    """
    earlier = RESULTS / f"{name}.partial.json"
    state = _EARLIER.read(earlier).value if earlier.exists() else _EarlierState(settings, {})
    check_same(earlier, state.settings, settings)
    store = ResultStore(make_folder(RESULTS) / f"{name}.partial", settings, _RESULT)
    atexit.register(store.__enter__().close)
    for key, result in state.pairs.items():
        store[key] = result
    earlier.unlink(missing_ok=True)
    return store


def percent(value: float, digits: int = 0, *, sign: bool = False) -> str:
    """A share as percent."""
    return f"{value * 100:{'+' if sign else ''}.{digits}f} %"


def interval(cell: Mapping[str, float]) -> str:
    """A share with its 95 % interval."""
    return f"{cell['share'] * 100:.1f} % ({cell['low'] * 100:.1f} to {cell['high'] * 100:.1f})"


def label(name: str) -> str:
    """The name of a method in tables, from its repr."""
    return name.split("(")[0] + (", fast information" if "information='fast'" in name else "")


def load(name: str) -> dict[str, Any]:
    """Read what `save` wrote."""
    data: dict[str, Any] = ANYTHING.read(RESULTS / f"{name}.json").raw
    return data
