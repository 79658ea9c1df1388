"""The recipe of the embedded model, with a progress bar."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli import console
from foveate.cli.demo.sight import SHAPE, train_sight
from foveate.errors import FoveateError, InputError, RecordError

if TYPE_CHECKING:
    from foveate.cli.demo.train import TrainEmbedded
    from foveate.recipe.train import Recipe

__all__ = ["train"]

_POLL_SECONDS = 1.0


def train(request: TrainEmbedded) -> None:
    """Train; resumes a stopped run.

    Raises:
        InputError: the folder cannot be used, or the device is not there.
    """
    if request.out.exists() and not request.out.is_dir():
        raise InputError(f"{request.out} is a file; name a folder for checkpoints, log and weights")
    if request.start is not None and not (request.start / "config.json").is_file():
        raise InputError(f"{request.start} holds no weights to start from (no config.json); name the folder of an earlier run's weights")
    if request.shape == SHAPE:
        train_sight(request)
        return
    from foveate.chat.models import find_device
    from foveate.recipe.train import Recipe
    from foveate.recipe.train import train as run

    recipe = Recipe(
        shape=_shape(request.shape),
        device=str(find_device(request.device)),
        hours=request.training_hours,
        steps=request.steps,
        seed=request.seed,
        batch=request.batch or Recipe.batch,
        processes=request.processes,
        workers=request.workers,
        guidance=request.guidance,
        start=None if request.start is None else str(request.start),
    )
    console.note(f"checkpoints and log are in {request.out}; the same command resumes a stopped run")
    try:
        with _progress(request.out / "log.jsonl", recipe):
            weights = run(request.out, recipe)
        card = _card(request, recipe.device) if request.card_questions else None
    except FoveateError:
        raise
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from error
    console.put(f"written: {weights}")
    if card:
        console.put(f"measured on held-out scenes: {card}")


def _shape(name: str | None) -> str:
    from foveate.demo.model.shapes import EMBEDDED_SHAPES
    from foveate.recipe.train import Recipe

    if name is None:
        return Recipe.shape
    if name not in EMBEDDED_SHAPES:
        raise InputError(f"there is no shape {name!r} of the embedded model; there is {', '.join((*EMBEDDED_SHAPES, SHAPE))}")
    return name


def _card(request: TrainEmbedded, device: str) -> Path:
    from foveate.recipe.card import describe

    with console.spinner(f"measuring on {request.card_questions} held-out questions of each family"):
        return describe(request.out, request.card_questions, device)


@contextmanager
def _progress(log: Path, recipe: Recipe) -> Iterator[None]:
    """A bar on stderr that follows the training log, from a thread, while training runs; nothing if stderr is no terminal."""
    bar = console.progress_bar()
    if bar is None:
        yield
        return
    finished = threading.Event()
    task = bar.add_task("training", total=_total(recipe))

    def follow() -> None:
        while not finished.wait(_POLL_SECONDS):
            done, last = _so_far(log, by_steps=recipe.steps is not None)
            bar.update(task, completed=done, description=last)

    with bar:
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
            bar.update(task, completed=_total(recipe), description="trained")
        finally:
            finished.set()
            thread.join()


def _total(recipe: Recipe) -> float:
    return float(sum(recipe.steps)) if recipe.steps else (recipe.hours or 0) * 3600


def _so_far(log: Path, by_steps: bool) -> tuple[float, str]:
    """How much of the run its log shows, in steps or seconds, and the last line in words."""
    from foveate.files.records import read_text
    from foveate.recipe.loop import LOG

    unit = "steps" if by_steps else "seconds"
    reached: dict[str, float] = {}
    words = "training"
    if log.is_file():
        for number, line in enumerate(read_text(log).splitlines(), start=1):
            try:
                entry = LOG.parse(line, f"{log}, line {number}").value
            except RecordError:  # a line that is being written
                continue
            reached[entry.phase] = entry.step if by_steps else entry.seconds
            words = f"{entry.phase}, step {entry.step}" + ("" if entry.loss is None else f", loss {entry.loss:.3f}")
    return sum(reached.values()), words if reached else f"training (no {unit} logged yet)"
