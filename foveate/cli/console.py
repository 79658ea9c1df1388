"""Writing to the terminal: results to stdout, everything else to stderr; colours and spinners on a terminal only."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from foveate.cli.streams import output
from foveate.printable import printable, printable_json

__all__ = ["cell", "counting", "error", "listing", "note", "progress_bar", "put", "put_json", "put_table", "spinner", "warnings_as_notes"]

_PIPE_WIDTH = 160  # rich would cut tables to 80 columns where there is no terminal


def _console(stderr: bool) -> Console:
    # Made anew each time, because tests and callers may replace sys.stdout.
    # Without markup, because a file or a task may be called [bold].
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def put(text: str, style: str = "") -> None:
    """Write text to stdout literally: without markup, and with control characters spelled out."""
    with output():
        _console(stderr=False).print(Text(printable(text, lines=True), style=style), soft_wrap=True)


def put_table(table: Table, *, wide: bool = False) -> None:
    """Write a table to stdout; a wide one is not cut to the terminal's width, because a wrapped line is better than a lost figure."""
    console = _console(stderr=False)
    if wide:
        console.width = max(console.width, _PIPE_WIDTH)
    with output():
        console.print(table)


def put_json(data: Any) -> None:
    """Write one JSON document to stdout, with escapes for characters that its encoding lacks."""
    text = printable_json(data)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(data, indent=2)
    with output():
        sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Write something that the user may want to know to stderr; does nothing if that fails."""
    with suppress(OSError):
        _console(stderr=True).print(Text.assemble(("note: ", "yellow"), printable(text)), soft_wrap=True)


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Inside this context a warning of foveate's own becomes a note; others are shown as Python shows them."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category.__module__.startswith("foveate."):
                note(str(message))
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        yield


def error(text: str) -> None:
    """Write why the command failed to stderr, as one line; if that fails, the exit code still says so."""
    line = printable(" ".join(text.split()))
    with suppress(OSError):
        _console(stderr=True).print(Text.assemble(("error: ", "bold red"), line), soft_wrap=True)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show a spinner on stderr while something runs; nothing if stderr is no terminal."""
    console = _console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(printable(text)), refresh_per_second=4):  # rarely, because it runs beside what is timed
        yield


def progress_bar() -> Progress | None:
    """A bar on stderr with the time that remains; `None` if stderr is no terminal."""
    console = _console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[..., object]]:
    """A bar on stderr; nothing if stderr is no terminal. Call what this yields to move it by a count, or by one."""
    bar = progress_bar()
    if bar is None:
        yield lambda count=1: None
        return
    with bar:
        task = bar.add_task(printable(title), total=total)
        yield lambda count=1: bar.advance(task, count)


def cell(text: str, style: str = "") -> Text:
    """A cell or header of a table, taken literally as in `put`."""
    return Text(printable(text), style=style)


def listing(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table without borders; the first column stands out."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for number, header in enumerate(headers):
        table.add_column(header, style="bold cyan" if number == 0 else "", no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(cell(text) for text in row))
    return table
