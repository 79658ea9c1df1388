"""The commands and their options; each one's work is in a module of its own, imported when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from foveate.cli import console
from foveate.cli.checks import parse_keep
from foveate.cli.options import (
    AsJson,
    Batch,
    CardQuestions,
    Clamp,
    Compare,
    CropModel,
    CropName,
    Device,
    Dtype,
    FrameCount,
    Grid,
    Guidance,
    Hours,
    ImageFile,
    Index,
    Keep,
    Layer,
    Lines,
    MaxMegapixels,
    MaxNewTokens,
    MethodName,
    ModelName,
    OutFile,
    Panels,
    Picture,
    PictureOrVideo,
    Processes,
    Question,
    Repeat,
    ReportFile,
    ReportOut,
    SceneSeed,
    Seed,
    Settings,
    Start,
    Steps,
    TrainOut,
    TrainSeed,
    Version,
    Workers,
)
from foveate.errors import FoveateError

__all__ = ["app", "main"]

REFUSED, INTERRUPTED = 1, 130
"""Exit codes of our own; typer gives 2 for wrong usage."""

DEFAULT_HOURS = 3.0

app = typer.Typer(
    name="foveate",
    help="Answer questions about pictures with a fraction of the visual tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 refused (bad input, unknown name, a file that cannot be written), 2 wrong usage, 130 interrupted.",
)
demo_app = typer.Typer(help="The small model that comes with foveate, and its scenes.", no_args_is_help=True)
app.add_typer(demo_app, name="demo")


@app.callback(invoke_without_command=True)
def root(version: Version = False) -> None:
    """Answer questions about pictures with a fraction of the visual tokens."""
    if version:
        from foveate.version import __version__

        console.put(f"foveate {__version__}")
        raise typer.Exit


@app.command("ask")
def ask_command(
    image: PictureOrVideo,
    question: Question,
    model: ModelName = "demo",
    frames: FrameCount = None,
    max_new_tokens: MaxNewTokens = 32,
    dtype: Dtype = "auto",
    device: Device = "auto",
    method: MethodName = "tokencarve",
    keep: Keep = "128",
    layer: Layer = None,
    seed: Seed = None,
    settings: Settings = None,
    clamp: Clamp = False,
    compare: Compare = False,
    repeat: Repeat = 1,
    picture: Picture = None,
    lines: Lines = True,
    report: ReportOut = None,
    as_json: AsJson = False,
    max_megapixels: MaxMegapixels = 64.0,
) -> None:
    """Ask a question about a picture or a video."""
    budget = parse_keep(keep)
    from foveate.cli.ask import Request, ask

    request = Request(
        image=image,
        frames=frames,
        question=question,
        model=model,
        method=method,
        keep=budget,
        layer=layer,
        seed=seed,
        settings=tuple(settings or ()),
        clamp=clamp,
        compare=compare,
        repeat=repeat,
        picture=picture,
        lines=lines,
        report=report,
        as_json=as_json,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
        max_pixels=_pixels(max_megapixels),
    )
    ask(request)


@app.command("draw")
def draw_command(
    report: ReportFile,
    image: ImageFile,
    out: OutFile,
    index: Index = 0,
    crop: CropName = "auto",
    model: CropModel = None,
    panels: Panels = True,
    grid: Grid = True,
    lines: Lines = True,
    max_megapixels: MaxMegapixels = 64.0,
) -> None:
    """Draw which tokens stayed, from a saved report."""
    from foveate.cli.drawing import Drawing, draw

    look = Drawing(index=index, crop=crop, model=model, panels=panels, grid=grid, lines=lines)
    draw(report, image, out, look, _pixels(max_megapixels))


@app.command("methods")
def methods_command(as_json: AsJson = False) -> None:
    """List the methods."""
    from foveate.cli.lists import list_methods

    list_methods(as_json)


@app.command("models")
def models_command(as_json: AsJson = False) -> None:
    """List the models that can be compressed."""
    from foveate.cli.lists import list_models

    list_models(as_json)


@demo_app.command("scene")
def scene_command(out: OutFile, seed: SceneSeed = 0, as_json: AsJson = False) -> None:
    """Write a scene that the demo model was not trained on, and print questions about it."""
    from foveate.cli.demo import scene

    scene(out, seed, as_json)


@demo_app.command("train")
def train_command(
    out: TrainOut = Path("runs/demo"),
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
    train(Training(out, hours, steps, device, seed, batch, processes, workers, guidance, start, card_questions))


@demo_app.command("card")
def card_command() -> None:
    """Print the demo model's card: what it can do, what it cannot, how it was trained."""
    from foveate.cli.demo import card

    card()


def _pixels(megapixels: float) -> int:
    return round(megapixels * 1e6)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises for what a user can cause.

    Args:
        arguments: without the program's name; `None` takes those of the process.
    """
    try:
        app(args=arguments, prog_name="foveate")
    except FoveateError as error:
        console.error(str(error))
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0
