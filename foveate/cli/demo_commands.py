"""The embedded model and its scenes."""

from __future__ import annotations

from pathlib import Path

import typer

from foveate.cli.options import (
    AsJson,
    Batch,
    CardQuestions,
    Device,
    Guidance,
    Hours,
    OutFile,
    Processes,
    SceneSeed,
    Start,
    Steps,
    TrainOut,
    TrainSeed,
    TrainShape,
    Workers,
)

__all__ = ["app"]

DEFAULT_HOURS = 3.0

app = typer.Typer(help="The small model that comes with foveate, and its scenes.", no_args_is_help=True)


@app.command("scene")
def scene_command(out: OutFile, seed: SceneSeed = 0, as_json: AsJson = False) -> None:
    """Write a scene that the demo model was not trained on, and print questions about it."""
    from foveate.cli.demo import scene

    scene(out, seed, as_json)


@app.command("train")
def train_command(
    out: TrainOut = Path("runs/demo"),
    shape: TrainShape = None,
    hours: Hours = None,
    steps: Steps = None,
    device: Device = "auto",
    seed: TrainSeed = 0,
    batch: Batch = None,
    processes: Processes = 1,
    workers: Workers = 0,
    guidance: Guidance = 0.3,
    start: Start = None,
    card_questions: CardQuestions = 160,
) -> None:
    """Train the demo model anew, or go on with a run that was stopped."""
    if hours is not None and steps is not None:
        raise typer.BadParameter("--hours and --steps exclude each other")
    from foveate.cli.training import Training, train

    if steps is None and hours is None:
        hours = DEFAULT_HOURS
    train(Training(out, shape, hours, steps, device, seed, batch, processes, workers, guidance, start, card_questions))


@app.command("card")
def card_command() -> None:
    """Print the demo model's card: what it can do, what it cannot, how it was trained."""
    from foveate.cli.demo import card

    card()
