"""The options of `foveate ask`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from foveate.cli.adapter import Renamed, option
from foveate.cli.checks import checked, parse_keep
from foveate.cli.options import COMPRESSION, MEASUREMENT, OUTPUT, JsonOption, LinesOption, MethodOptions, ModelOptions, QuestionOptions

__all__ = ["Ask"]


@dataclass(frozen=True, kw_only=True)
class Ask(ModelOptions, QuestionOptions, MethodOptions, LinesOption, JsonOption):
    """Ask a question about a picture or a video."""

    method: Annotated[
        str,
        option(
            "See foveate methods; options of its own after colons: tokencarve:information=fast. none runs the full model.",
            "NAME",
            COMPRESSION,
        ),
    ] = "tokencarve"
    keep: Annotated[
        str, option("Visual tokens to keep: how many (128), or their share (0.25).", "N|SHARE", COMPRESSION, callback=checked(parse_keep))
    ] = "128"
    compare: Annotated[bool, option("Run the full model too, and show both.", panel=MEASUREMENT, name="--compare")] = False
    repeats: Annotated[int, option("Runs to measure; shows their medians.", "N", MEASUREMENT, min=1), Renamed("--repeat")] = 1
    picture: Annotated[Path | None, option("Draw which tokens were kept, as PNG, JPEG or WebP.", "FILE", OUTPUT)] = None
    report: Annotated[Path | None, option("Save the report as JSON; foveate draw reads it.", "FILE", OUTPUT)] = None

    @property
    def budget(self) -> int | float:
        """What --keep says."""
        return parse_keep(self.keep)

    def run(self) -> None:
        """See `foveate.cli.ask.run.ask`."""
        from foveate.cli.ask.run import ask

        ask(self)
