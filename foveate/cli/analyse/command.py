"""What `foveate analyse` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.adapter import Renamed
from foveate.cli.checks import checked, parse_names, parse_whole_numbers
from foveate.cli.options import JsonOption, ModelOptions

__all__ = ["Analyse"]


@dataclass(frozen=True, kw_only=True)
class Analyse(ModelOptions, JsonOption):
    """Measure whether methods that keep more information keep more accuracy."""

    out: Annotated[Path, typer.Option(help="Folder of results; resumes a run.", metavar="FOLDER", show_default=False)]
    methods: Annotated[
        str,
        typer.Option(
            callback=checked(parse_names), help="Names, separated by commas; norm keeps the longest hidden states.", metavar="NAME,..."
        ),
    ] = "tokencarve,fastv,pool,random,norm"
    keep: Annotated[
        str,
        typer.Option(
            callback=checked(parse_whole_numbers), help="Budgets: visual tokens to keep; all of them is the full model.", metavar="N,..."
        ),
    ] = "576,384,288,192,144,128,96,64,32,16"
    samples: Annotated[int, typer.Option(min=2, help="Held-out questions, spread over their families.", metavar="N")] = 104
    layer: Annotated[int, typer.Option(min=0, help="Decoder layer all methods act before.", metavar="N")] = 2
    layers: Annotated[
        str | None,
        typer.Option(
            callback=checked(parse_whole_numbers),
            help="Decoder layers to measure at; by default four, from the cut to the last.",
            metavar="N,...",
        ),
    ] = None
    seeds: Annotated[int, typer.Option(min=1, help="Seeds of random choices.", metavar="N")] = 3
    batch: Annotated[int, typer.Option(min=1, help="Questions in a batch.", metavar="N"), Renamed("--batch-size")] = 16

    @property
    def names(self) -> tuple[str, ...]:
        """What --methods lists."""
        return parse_names(self.methods)

    @property
    def budgets(self) -> tuple[int, ...]:
        """What --keep lists."""
        return parse_whole_numbers(self.keep)

    @property
    def measured_layers(self) -> tuple[int, ...] | None:
        """What --layers lists."""
        return None if self.layers is None else parse_whole_numbers(self.layers)

    def run(self) -> None:
        """See `foveate.cli.analyse.run.analyse`."""
        from foveate.cli.analyse.run import analyse

        analyse(self)
