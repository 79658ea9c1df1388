"""What `foveate train` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.adapter import Renamed
from foveate.cli.checks import LARGEST_SEED, finite
from foveate.cli.options import DeviceOption, JsonOption

__all__ = ["TrainCompressor"]

NETWORK, TRAINING = "Network", "Training"


@dataclass(frozen=True, kw_only=True)
class TrainCompressor(DeviceOption, JsonOption):
    """Train a compressor on labels; resumes a stopped run. For several devices: accelerate launch -m foveate train."""

    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="Folder that foveate labels wrote.", show_default=False)]
    out: Annotated[Path, typer.Option(help="Folder for the compressor; resumes a run.", metavar="FOLDER", show_default=False)]
    network: Annotated[
        Literal["grid", "sequence"],
        typer.Option(
            help="grid: over rows, columns and frames; sequence: along the tokens, as published.", metavar="NAME", rich_help_panel=NETWORK
        ),
    ] = "grid"
    layers: Annotated[int, typer.Option(min=1, help="Separable convolutions.", metavar="N", rich_help_panel=NETWORK)] = 5
    kernel: Annotated[int, typer.Option(min=1, help="Their width, odd.", metavar="N", rich_help_panel=NETWORK)] = 3
    heads: Annotated[
        Literal["keep", "mean"],
        typer.Option(help="keep: a channel for each attention head; mean: their average.", metavar="NAME", rich_help_panel=NETWORK),
    ] = "keep"
    values: Annotated[
        Literal["log", "plain"],
        typer.Option(help="log: the logarithm of attention; plain: attention itself.", metavar="NAME", rich_help_panel=NETWORK),
    ] = "log"
    states: Annotated[
        bool, typer.Option("--states", help="Also give the network the tokens' states; the labels must have them.", rich_help_panel=NETWORK)
    ] = False
    batch: Annotated[
        int,
        typer.Option(min=1, help="Images in a batch, over all processes.", metavar="N", rich_help_panel=TRAINING),
        Renamed("--batch-size"),
    ] = 128
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the labels, at most.", metavar="N", rich_help_panel=TRAINING)] = 100
    rate: Annotated[
        float, typer.Option(min=1e-9, callback=finite, help="Learning rate at the start.", metavar="X", rich_help_panel=TRAINING)
    ] = 1e-3
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without progress before training stops.", metavar="N", rich_help_panel=TRAINING)
    ] = 15
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of weights and order.", metavar="N", rich_help_panel=TRAINING)
    ] = 0

    def run(self) -> None:
        """See `foveate.cli.train.run.train_compressor`."""
        from foveate.cli.train.run import train_compressor

        train_compressor(self)
