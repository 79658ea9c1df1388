"""The options of `foveate train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from foveate.cli.adapter import Renamed, argument, option
from foveate.cli.checks import LARGEST_SEED, finite
from foveate.cli.options import DeviceOption, JsonOption

__all__ = ["TrainCompressor"]

NETWORK, TRAINING = "Network", "Training"


@dataclass(frozen=True, kw_only=True)
class TrainCompressor(DeviceOption, JsonOption):
    """Train a compressor on labels; resumes a stopped run. For several devices: accelerate launch -m foveate train."""

    labels: Annotated[Path, argument("Folder that foveate labels wrote.", "LABELS")]
    out: Annotated[Path, option("Folder for the compressor; resumes a run.", "FOLDER", show_default=False)]
    network: Annotated[
        Literal["grid", "sequence"],
        option("grid: over rows, columns and frames; sequence: along the tokens, as published.", "NAME", NETWORK),
    ] = "grid"
    layers: Annotated[int, option("Separable convolutions.", "N", NETWORK, min=1)] = 5
    kernel: Annotated[int, option("Their width, odd.", "N", NETWORK, min=1)] = 3
    heads: Annotated[Literal["keep", "mean"], option("keep: a channel for each attention head; mean: their average.", "NAME", NETWORK)] = (
        "keep"
    )
    values: Annotated[Literal["log", "plain"], option("log: the logarithm of attention; plain: attention itself.", "NAME", NETWORK)] = "log"
    states: Annotated[
        bool, option("Also give the network the tokens' states; the labels must have them.", panel=NETWORK, name="--states")
    ] = False
    batch: Annotated[int, option("Images in a batch, over all processes.", "N", TRAINING, min=1), Renamed("--batch-size")] = 128
    epochs: Annotated[int, option("Passes over the labels, at most.", "N", TRAINING, min=1)] = 100
    rate: Annotated[float, option("Learning rate at the start.", "X", TRAINING, min=1e-09, callback=finite)] = 1e-3
    patience: Annotated[int, option("Epochs without progress before training stops.", "N", TRAINING, min=1)] = 15
    seed: Annotated[int, option("Seed of weights and order.", "N", TRAINING, min=0, max=LARGEST_SEED)] = 0

    def run(self) -> None:
        """See `foveate.cli.train.run.train_compressor`."""
        from foveate.cli.train.run import train_compressor

        train_compressor(self)
