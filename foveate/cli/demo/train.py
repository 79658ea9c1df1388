"""The options of `foveate demo train`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.adapter import Renamed, option
from foveate.cli.checks import LARGEST_SEED, finite
from foveate.cli.options import DeviceOption

__all__ = ["TrainEmbedded"]

DEFAULT_HOURS = 3.0
TRAINING, COMPUTE = "Training", "Compute"


@dataclass(frozen=True, kw_only=True)
class TrainEmbedded(DeviceOption):
    """Train the embedded model; resumes a stopped run."""

    out: Annotated[Path, option("Folder for checkpoints, log and weights; resumes a run.", "FOLDER"), Renamed("FOLDER")] = Path("runs/demo")
    shape: Annotated[str | None, option("Kind of model; by default the embedded model's own.", "NAME", TRAINING)] = None
    hours: Annotated[float | None, option("How long to train; 3 without --steps.", "N", TRAINING, min=0.001, callback=finite)] = None
    steps: Annotated[tuple[int, int] | None, option("Steps of tower and decoder, instead of hours.", "TOWER DECODER", TRAINING)] = None
    batch: Annotated[int | None, option("Windows in a batch of each process.", "N", TRAINING, min=4), Renamed("--batch-size")] = None
    guidance: Annotated[float, option("Weight of the supervision of attention; 0: none.", "W", TRAINING, min=0.0, callback=finite)] = 0.3
    start: Annotated[Path | None, option("Folder of an earlier run's weights to start from.", "FOLDER", TRAINING)] = None
    seed: Annotated[int, option("Seed of weights and scenes.", "N", TRAINING, min=0, max=LARGEST_SEED)] = 0
    card_questions: Annotated[
        int, option("Held-out questions of each family to measure the weights on; 0: none.", "N", TRAINING, min=0)
    ] = 160
    processes: Annotated[int, option("Processes that train together; on a CPU one for each core.", "N", COMPUTE, min=1)] = 1
    workers: Annotated[int, option("Processes that draw scenes; on a GPU one for each core.", "N", COMPUTE, min=0)] = 0

    @property
    def training_hours(self) -> float | None:
        """How long to train; `None` where steps are counted.

        Raises:
            typer.BadParameter: hours and steps are both given.
        """
        if self.steps is None:
            return DEFAULT_HOURS if self.hours is None else self.hours
        if self.hours is not None:
            raise typer.BadParameter("--hours and --steps exclude each other")
        return None

    def run(self) -> None:
        """See `foveate.cli.demo.training.train`."""
        self.training_hours  # noqa: B018 - wrong usage comes before anything that takes time
        from foveate.cli.demo.training import train

        train(self)
