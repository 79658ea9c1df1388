"""`foveate report`: one page about what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from foveate.cli import console
from foveate.cli.adapter import argument, option
from foveate.cli.checks import check_output, check_outputs, write
from foveate.errors import InputError

__all__ = ["WriteReport"]

NAME = "report.html"


@dataclass(frozen=True, kw_only=True)
class WriteReport:
    """Write one page with tables and charts of what foveate eval, bench and analyse measured."""

    runs: Annotated[list[Path], argument("Folders or files that foveate eval, bench and analyse wrote.", "RUN...")]
    out: Annotated[Path | None, option("HTML file to write; by default report.html in the first folder.", "FILE")] = None
    mixed: Annotated[bool, option("Put runs of different models or data on one page, which says so at its top.", name="--mixed")] = False

    def run(self) -> None:
        """Write the page.

        Raises:
            InputError: results are missing or do not belong together, the page cannot be written, or a package that draws is missing.
        """
        path = self.out or (self.runs[0] if self.runs[0].is_dir() else self.runs[0].parent) / NAME
        check_output(path, "page", (".html", ".htm"))
        check_outputs([path], [file for run in self.runs for file in (run.glob("*.json") if run.is_dir() else [run])])
        from foveate.files.writing import write_whole

        try:
            from foveate.measure.reporting.inputs import read_inputs
            from foveate.measure.reporting.page import page
        except ModuleNotFoundError as error:
            raise InputError(f"foveate report needs {error.name}, which is not installed: pip install 'foveate[plots]'") from error
        with console.spinner("drawing"):
            text = page(read_inputs(self.runs), mixed=self.mixed)
            write(path, "page", lambda place: write_whole(place, text))
        console.put(f"written: {path}")
