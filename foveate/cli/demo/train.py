"""What `foveate demo train` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from foveate.cli.adapter import Renamed
from foveate.cli.checks import LARGEST_SEED, finite
from foveate.cli.options import DeviceOption

__all__ = ["TrainEmbedded"]

DEFAULT_HOURS = 3.0
TRAINING, COMPUTE = "Training", "Compute"


@dataclass(frozen=True, kw_only=True)
class TrainEmbedded(DeviceOption):
    """Train the embedded model; resumes a stopped run."""

    out: Annotated[
        Path, typer.Option(help="Folder for checkpoints, log and weights; resumes a run.", metavar="FOLDER"), Renamed("FOLDER")
    ] = Path("runs/demo")
    shape: Annotated[
        str | None, typer.Option(help="Kind of model; by default the embedded model's own.", metavar="NAME", rich_help_panel=TRAINING)
    ] = None
    hours: Annotated[
        float | None,
        typer.Option(min=0.001, callback=finite, help="How long to train; 3 without --steps.", metavar="N", rich_help_panel=TRAINING),
    ] = None
    steps: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Steps of tower and decoder, instead of hours.", metavar="TOWER DECODER", rich_help_panel=TRAINING),
    ] = None
    batch: Annotated[
        int | None,
        typer.Option(min=4, help="Windows in a batch of each process.", metavar="N", rich_help_panel=TRAINING),
        Renamed("--batch-size"),
    ] = None
    guidance: Annotated[
        float,
        typer.Option(
            min=0.0, callback=finite, help="Weight of the supervision of attention; 0: none.", metavar="W", rich_help_panel=TRAINING
        ),
    ] = 0.3
    start: Annotated[
        Path | None, typer.Option(help="Folder of an earlier run's weights to start from.", metavar="FOLDER", rich_help_panel=TRAINING)
    ] = None
    seed: Annotated[
        int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of weights and scenes.", metavar="N", rich_help_panel=TRAINING)
    ] = 0
    card_questions: Annotated[
        int,
        typer.Option(
            min=0, help="Held-out questions of each family to measure the weights on; 0: none.", metavar="N", rich_help_panel=TRAINING
        ),
    ] = 160
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that train together; on a CPU one for each core.", metavar="N", rich_help_panel=COMPUTE)
    ] = 1
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that draw scenes; on a GPU one for each core.", metavar="N", rich_help_panel=COMPUTE)
    ] = 0

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
