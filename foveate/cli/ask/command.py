"""What `foveate ask` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.adapter import Renamed
from foveate.cli.checks import checked, parse_keep
from foveate.cli.options import (
    COMPRESSION,
    MEASUREMENT,
    OUTPUT,
    JsonOption,
    LinesOption,
    MethodOptions,
    ModelOptions,
    QuestionOptions,
)

__all__ = ["Ask"]


@dataclass(frozen=True, kw_only=True)
class Ask(ModelOptions, QuestionOptions, MethodOptions, LinesOption, JsonOption):
    """Ask a question about a picture or a video."""

    method: Annotated[
        str,
        typer.Option(
            help="See foveate methods; options of its own after colons: tokencarve:information=fast. none runs the full model.",
            metavar="NAME",
            rich_help_panel=COMPRESSION,
        ),
    ] = "tokencarve"
    keep: Annotated[
        str,
        typer.Option(
            callback=checked(parse_keep),
            help="Visual tokens to keep: how many (128), or their share (0.25).",
            metavar="N|SHARE",
            rich_help_panel=COMPRESSION,
        ),
    ] = "128"
    compare: Annotated[bool, typer.Option("--compare", help="Run the full model too, and show both.", rich_help_panel=MEASUREMENT)] = False
    repeats: Annotated[
        int,
        typer.Option(min=1, help="Runs to measure; shows their medians.", metavar="N", rich_help_panel=MEASUREMENT),
        Renamed("--repeat"),
    ] = 1
    picture: Annotated[
        Path | None, typer.Option(help="Draw which tokens were kept, as PNG, JPEG or WebP.", metavar="FILE", rich_help_panel=OUTPUT)
    ] = None
    report: Annotated[
        Path | None, typer.Option(help="Save the report as JSON; foveate draw reads it.", metavar="FILE", rich_help_panel=OUTPUT)
    ] = None

    @property
    def budget(self) -> int | float:
        """What --keep says."""
        return parse_keep(self.keep)

    def run(self) -> None:
        """See `foveate.cli.ask.run.ask`."""
        from foveate.cli.ask.run import ask

        ask(self)
