"""What `foveate bench` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from foveate.cli.adapter import UNRECORDED, Renamed
from foveate.cli.checks import LARGEST_SEED
from foveate.cli.options import COMPRESSION, MEASUREMENT, MODEL, OUTPUT, CutOption, JsonOption, ModelOptions

__all__ = ["Bench"]


@dataclass(frozen=True, kw_only=True)
class Bench(ModelOptions, CutOption, JsonOption):
    """Measure what compression costs and saves, beside the full model and the ideal."""

    IDENTIFYING: ClassVar = (
        *("model", "scale", "image_size", "attention", "methods", "keep"),
        *("layer", "prompt", "new_tokens", "seed", "dtype", "device"),
    )
    """What decides what is measured: a run resumes only with the same. Batch sizes and repeats may grow."""

    model: Annotated[
        str,
        typer.Option(
            help="demo or demo-qwen2-vl (embedded), a folder, a Hugging Face id, or shape:NAME for random weights.",
            metavar="NAME",
            rich_help_panel=MODEL,
        ),
    ] = "demo"
    scale: Annotated[
        str | None,
        typer.Option(help="Make a shape smaller: a factor, or hidden size and layers (1024/16).", metavar="S", rich_help_panel=MODEL),
    ] = None
    image_size: Annotated[
        str | None,
        typer.Option(help="Pixels, 672 or WIDTHxHEIGHT, if the vision tower takes any size.", metavar="N", rich_help_panel=MODEL),
    ] = None
    attention: Annotated[
        str | None,
        typer.Option(
            help="Attention implementation, as transformers names it; by default the model's.", metavar="NAME", rich_help_panel=MODEL
        ),
    ] = None
    methods: Annotated[
        str,
        typer.Option(
            help="Names, separated by commas; options of a method after colons: tokencarve:information=fast. "
            "none measures the full model alone.",
            metavar="NAME,...",
            rich_help_panel=COMPRESSION,
        ),
    ] = "tokencarve,fastv"
    keep: Annotated[
        str,
        typer.Option(help="Budgets: visual tokens to keep (128), or shares (0.25).", metavar="N|SHARE,...", rich_help_panel=COMPRESSION),
    ] = "192,128,64"
    batch: Annotated[
        str, typer.Option(help="Batch sizes, separated by commas.", metavar="N,...", rich_help_panel=MEASUREMENT), Renamed("--batch-size")
    ] = "1"
    prompt: Annotated[
        str, typer.Option(help="Text tokens, in all or before and after the image.", metavar="N|N+N", rich_help_panel=MEASUREMENT)
    ] = "76"
    new_tokens: Annotated[
        str,
        typer.Option(help="Output lengths, separated by commas; only the longest runs.", metavar="N,...", rich_help_panel=MEASUREMENT),
    ] = "1,16"
    repeats: Annotated[
        int,
        typer.Option(min=1, help="Rounds, in each of which everything runs once.", metavar="N", rich_help_panel=MEASUREMENT),
        Renamed("--repeat"),
    ] = 10
    seed: Annotated[
        int,
        typer.Option(min=0, max=LARGEST_SEED, help="Seed of weights, words and pixels.", metavar="N", rich_help_panel=MEASUREMENT),
    ] = 0
    out: Annotated[
        Path | None,
        typer.Option(help="File of results (JSON), saved after every round; resumes a run.", metavar="FILE", rich_help_panel=OUTPUT),
    ] = None
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw times and key/value bytes, as PNG, SVG or PDF.", metavar="FILE", rich_help_panel=OUTPUT),
        UNRECORDED,
    ] = None
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Measure nothing; compare two results, if that is fair.", metavar="FILE FILE", rich_help_panel=OUTPUT),
        UNRECORDED,
    ] = None

    def run(self) -> None:
        """See `foveate.cli.bench.run`."""
        from foveate.cli.bench.run import bench, compare

        if self.compare is not None:
            compare(*self.compare, as_json=self.as_json)
        else:
            bench(self)
