"""The options of `foveate analyse`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from foveate.cli.adapter import Renamed, option
from foveate.cli.checks import checked, parse_names, parse_whole_numbers
from foveate.cli.options import JsonOption, ModelOptions

__all__ = ["Analyse"]


@dataclass(frozen=True, kw_only=True)
class Analyse(ModelOptions, JsonOption):
    """Measure whether methods that keep more information keep more accuracy."""

    out: Annotated[Path, option("Folder of results; resumes a run.", "FOLDER", show_default=False)]
    methods: Annotated[
        str, option("Names, separated by commas; norm keeps the longest hidden states.", "NAME,...", callback=checked(parse_names))
    ] = "tokencarve,fastv,pool,random,norm"
    keep: Annotated[
        str, option("Budgets: visual tokens to keep; all of them is the full model.", "N,...", callback=checked(parse_whole_numbers))
    ] = "576,384,288,192,144,128,96,64,32,16"
    samples: Annotated[int, option("Held-out questions, spread over their families.", "N", min=2)] = 104
    layer: Annotated[int, option("Decoder layer all methods act before.", "N", min=0)] = 2
    layers: Annotated[
        str | None,
        option("Decoder layers to measure at; by default four, from the cut to the last.", "N,...", callback=checked(parse_whole_numbers)),
    ] = None
    seeds: Annotated[int, option("Seeds of random choices.", "N", min=1)] = 3
    batch: Annotated[int, option("Questions in a batch.", "N", min=1), Renamed("--batch-size")] = 16

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
