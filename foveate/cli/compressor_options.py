"""The options of `foveate train`, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.checks import LARGEST_SEED, finite

__all__ = [
    "CompressorOut", "Epochs", "Heads", "Images", "Kernel", "LabelsFolder", "LayerCount", "LearningRate", "Network", "NetworkSeed",
    "Patience", "Values", "WithStates",
]  # fmt: skip

_NETWORK, _TRAINING = "Network", "Training"

LabelsFolder = Annotated[Path, typer.Argument(metavar="LABELS", help="Folder that foveate labels wrote.", show_default=False)]
CompressorOut = Annotated[
    Path, typer.Option("--out", help="Folder for the compressor; a run that is there goes on.", metavar="FOLDER", show_default=False)
]
Network = Annotated[
    Literal["grid", "sequence"],
    typer.Option(help="grid: over rows, columns and frames; sequence: along the tokens, as published.", rich_help_panel=_NETWORK),
]
LayerCount = Annotated[int, typer.Option("--layers", min=1, help="Separable convolutions.", metavar="N", rich_help_panel=_NETWORK)]
Kernel = Annotated[int, typer.Option(min=1, help="Their width, odd.", metavar="N", rich_help_panel=_NETWORK)]
Heads = Annotated[
    Literal["keep", "mean"], typer.Option(help="keep: a channel for each attention head; mean: their average.", rich_help_panel=_NETWORK)
]
Values = Annotated[
    Literal["log", "plain"], typer.Option(help="log: the logarithm of attention; plain: attention itself.", rich_help_panel=_NETWORK)
]
WithStates = Annotated[
    bool, typer.Option("--states", help="Show the network the tokens' states too; labels must have them.", rich_help_panel=_NETWORK)
]
Images = Annotated[int, typer.Option("--batch", min=1, help="Images a step, over all processes.", metavar="N", rich_help_panel=_TRAINING)]
Epochs = Annotated[int, typer.Option(min=1, help="At most so many passes over the labels.", metavar="N", rich_help_panel=_TRAINING)]
LearningRate = Annotated[
    float, typer.Option("--rate", min=1e-9, callback=finite, help="Learning rate at the start.", metavar="X", rich_help_panel=_TRAINING)
]
Patience = Annotated[int, typer.Option(min=1, help="Epochs without progress before it stops.", metavar="N", rich_help_panel=_TRAINING)]
NetworkSeed = Annotated[
    int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Of weights and order.", metavar="N", rich_help_panel=_TRAINING)
]
