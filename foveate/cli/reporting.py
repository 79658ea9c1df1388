"""`foveate report`: one page about what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from foveate.cli import console
from foveate.cli.checks import check_output, check_outputs, write
from foveate.errors import InputError
from foveate.files.writing import write_whole

__all__ = ["report"]

_NAME = "report.html"


def report(runs: Sequence[Path], out: Path | None, *, mixed: bool) -> None:
    """Write the page.

    Raises:
        InputError: results are missing or do not belong together, the page cannot be written, or something that draws is not installed.
    """
    path = out or (runs[0] if runs[0].is_dir() else runs[0].parent) / _NAME
    check_output(path, "page", (".html", ".htm"))
    check_outputs([path], [file for run in runs for file in (run.glob("*.json") if run.is_dir() else [run])])
    try:
        from foveate.measure.reporting.inputs import read_inputs
        from foveate.measure.reporting.page import page
    except ModuleNotFoundError as error:
        raise InputError(f"foveate report needs {error.name}: pip install 'foveate[plots]'") from error
    with console.spinner("drawing"):
        text = page(read_inputs(runs), mixed=mixed)
        write(path, "page", lambda place: write_whole(place, text))
    console.put(f"written: {path}")
