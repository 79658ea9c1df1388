"""The options of `foveate bench`, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.checks import LARGEST_SEED

__all__ = [
    "Attention", "BenchLayer", "BenchModel", "BenchOut", "BenchSeed", "Budgets", "CompareFiles", "ImageSize", "MethodNames", "NewTokens",
    "PlotFile", "PromptLength", "Repeats", "Rows", "Scale",
]  # fmt: skip

_MODEL, _COMPRESSION, _MEASUREMENT, _OUTPUT = "Model", "Compression", "Measurement", "Output"

BenchModel = Annotated[
    str,
    typer.Option(
        "--model", help="demo, a folder, a Hugging Face id, or shape:NAME for random weights.", metavar="NAME", rich_help_panel=_MODEL
    ),
]
Scale = Annotated[
    str | None,
    typer.Option(
        "--scale", help="Make a shape smaller: a factor, or hidden size and layers (1024/16).", metavar="S", rich_help_panel=_MODEL
    ),
]
ImageSize = Annotated[
    str | None,
    typer.Option("--image-size", help="Pixels, 672 or WIDTHxHEIGHT, where the tower takes any size.", metavar="N", rich_help_panel=_MODEL),
]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attention", help="Attention implementation, as transformers calls it; else the model's.", metavar="NAME", rich_help_panel=_MODEL
    ),
]
MethodNames = Annotated[
    str,
    typer.Option(
        "--methods",
        help="Names with commas; options behind colons: tokencarve:information=fast.",
        metavar="NAMES",
        rich_help_panel=_COMPRESSION,
    ),
]
Budgets = Annotated[
    str, typer.Option("--keep", help="Visual tokens that stay, or shares, with commas.", metavar="N,...", rich_help_panel=_COMPRESSION)
]
BenchLayer = Annotated[
    int | None,
    typer.Option(
        "--layer", help="Decoder layer before which tokens leave; else each method's own.", metavar="N", rich_help_panel=_COMPRESSION
    ),
]
Rows = Annotated[str, typer.Option("--batch", help="Batch sizes, with commas.", metavar="N,...", rich_help_panel=_MEASUREMENT)]
PromptLength = Annotated[
    str,
    typer.Option("--prompt", help="Text tokens, in all or before and behind the image.", metavar="N|N+N", rich_help_panel=_MEASUREMENT),
]
NewTokens = Annotated[
    str,
    typer.Option("--new-tokens", help="Output lengths, with commas; the longest is run.", metavar="N,...", rich_help_panel=_MEASUREMENT),
]
Repeats = Annotated[
    int, typer.Option("--repeats", min=1, help="Rounds in which all take turns.", metavar="N", rich_help_panel=_MEASUREMENT)
]
BenchSeed = Annotated[
    int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Of weights, words and pixels.", metavar="N", rich_help_panel=_MEASUREMENT)
]
BenchOut = Annotated[
    Path | None,
    typer.Option("--out", help="Results as JSON, saved after every round; goes on with a run.", metavar="FILE", rich_help_panel=_OUTPUT),
]
PlotFile = Annotated[
    Path | None,
    typer.Option("--plot", help="Draw times and key/value bytes, as PNG, SVG or PDF.", metavar="FILE", rich_help_panel=_OUTPUT),
]
CompareFiles = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare",
        help="Compare two results instead of measuring; refused where it would not be fair.",
        metavar="A B",
        rich_help_panel=_OUTPUT,
    ),
]
