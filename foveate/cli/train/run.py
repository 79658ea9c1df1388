"""A compressor from labels, with its progress shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from foveate.cli import console
from foveate.errors import FoveateError, InputError

if TYPE_CHECKING:
    from foveate.cli.train.command import TrainCompressor
    from foveate.explain.compressor.measures import Quality
    from foveate.explain.compressor.train import CompressorRecipe, TrainingProgress, TrainingResult

__all__ = ["train_compressor"]


def _recipe(request: TrainCompressor) -> CompressorRecipe:
    """The recipe that the options describe.

    Raises:
        OptionError: a value is outside its range.
        InputError: packages that training needs are not installed.
    """
    try:
        from foveate.explain.compressor.train import CompressorRecipe
    except ImportError as error:
        raise InputError(f"training needs {error.name}, which is not installed: pip install 'foveate[explain]'") from error
    same = ("network", "layers", "kernel", "states", "batch", "epochs", "rate", "patience", "seed")
    return CompressorRecipe(
        mean=request.heads == "mean", logarithm=request.values == "log", **{name: getattr(request, name) for name in same}
    )


def train_compressor(request: TrainCompressor) -> None:
    """Train; resumes a stopped run.

    Raises:
        FoveateError: what is wrong with the labels, the folder or the device.
    """
    labels, out, recipe = request.labels, request.out, _recipe(request)
    from foveate.chat.models import find_device
    from foveate.explain.compressor.train import train
    from foveate.explain.labels.label_files import read_info
    from foveate.files.locks import check_free

    read_info(labels)
    cpu = str(find_device(request.device)) == "cpu"
    first = int(os.environ.get("RANK", "0")) == 0
    if first:
        check_free(out)
        console.note(f"compressor, checkpoint and logs go to {out}; the same command resumes a stopped run")
    try:
        with _progress(first) as watch:
            trained = train(labels, out, recipe, cpu=cpu, watch=watch)
    except FoveateError:
        raise
    except OSError as error:
        raise InputError(f"cannot train into {out}: {error.strerror or error}") from error
    if not first:
        return
    if request.as_json:
        console.put_json({"compressor": str(trained.folder), **asdict(trained.best), "epoch": trained.epoch, "epochs": trained.epochs})
    else:
        _put(trained)


def _put(trained: TrainingResult) -> None:
    console.put(f"written: {trained.folder}")
    console.put(f"best of {trained.epochs} epochs: number {trained.epoch}, on held-out samples {_words(trained.best)}")
    console.put(f"use it: foveate ask ... --method explainer:compressor={trained.folder}", style="dim")


def _words(found: Quality) -> str:
    found_of = f"{found.overlap_50:.1%} found at 50 % and {found.overlap_25:.1%} at 25 %"
    return f"loss {found.loss:.3f}, of the truly most relevant tokens {found_of}, rank correlation {found.rank_correlation:.3f}"


@contextmanager
def _progress(shown: bool) -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar on stderr; nothing if stderr is no terminal."""
    bar = console.progress_bar() if shown else None
    if bar is None:
        yield lambda _: None
        return
    task = bar.add_task("reading labels", total=None)

    def follow(moment: TrainingProgress) -> None:
        done = (moment.epoch - 1) * moment.steps + moment.step
        held_out = ""
        if moment.quality is not None:
            found = moment.quality
            held_out = f"; held out {found.loss:.3f}, {found.overlap_50:.0%} at 50 %, {found.overlap_25:.0%} at 25 %"
        words = f"epoch {moment.epoch}, loss {moment.loss:.3f}{held_out}"
        bar.update(task, completed=done, total=moment.epochs * moment.steps, description=words)

    with bar:
        yield follow
