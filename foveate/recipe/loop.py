"""The training loop: a phase draws batches and computes a loss; the loop paces, logs, checkpoints and resumes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from foveate.errors import RecordError, TrainingError
from foveate.files.checkpoints.finite import not_finite
from foveate.files.records import Count, Number, RecordSchema, Seconds, read_tensors
from foveate.files.writing import append_line, write_made
from foveate.recipe.optimise import Optimiser

__all__ = ["LOG", "LogEntry", "Loop", "Pace", "Phase", "PhaseCheckpoint", "checkpoint", "restored"]


@dataclass(frozen=True)
class LogEntry:
    """A line of the log, apart from the figures that the phase names itself."""

    phase: str
    step: Count
    seconds: Seconds
    loss: Number | None = None


LOG: RecordSchema[LogEntry] = RecordSchema("a line of a training log", LogEntry)


@dataclass(frozen=True)
class PhaseCheckpoint:
    """The content of a checkpoint apart from tensors."""

    step: Count
    elapsed: Seconds
    figures: dict[str, Number]


_SCHEMA: RecordSchema[PhaseCheckpoint] = RecordSchema(
    "a checkpoint of foveate demo train", PhaseCheckpoint, remedy="remove it to train that phase again"
)


def checkpoint(path: Path) -> tuple[PhaseCheckpoint, dict[str, Any]]:
    """Read a checkpoint: how far the phase came, and the whole content.

    Raises:
        RecordError: it is missing or damaged.
    """
    content = read_tensors(path)
    if not isinstance(content, dict) or not isinstance(content.get("masters"), dict) or "optimiser" not in content:
        raise _SCHEMA.refusal(str(path), "it has no masters and no optimiser")
    plain = {own.name: content[own.name] for own in fields(PhaseCheckpoint) if own.name in content}
    return _SCHEMA.of(plain, str(path)).value, content


def restored(path: Path, part: Any, state: Any) -> None:
    """Load a part of a checkpoint.

    Raises:
        RecordError: it does not match.
    """
    try:
        part.load_state_dict(state)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RuntimeError,
    ) as error:  # what torch raises for states of other shapes
        raise RecordError(f"{path} is damaged: {str(error).partition(chr(10))[0]}; {_SCHEMA.remedy}") from error


class Phase(Protocol):
    """One phase of training."""

    name: str
    optimiser: Optimiser

    @property
    def masters(self) -> nn.Module:
        """The trained module, in float32."""

    def order(self, step: int, rank: int, progress: float) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The function that draws a process's batch for a step, with its arguments; a worker may run it."""

    def loss(self, batch: Any, progress: float) -> tuple[Tensor, dict[str, float]]:
        """The loss of a drawn batch, and figures to log."""


@dataclass(frozen=True)
class Pace:
    """How long a phase runs, by the clock or by steps, and its learning rate over time.

    Exactly one of `seconds` and `steps` is set. Only a phase paced by steps is reproducible bit for bit.
    """

    seconds: float | None = None
    steps: int | None = None
    warm_up: int = 60
    hold: float = 0.4  # share of the phase before the rate falls

    def progress(self, step: int, elapsed: float) -> float:
        """The share of the phase that is done, in [0, 1]."""
        done = step / self.steps if self.steps else elapsed / (self.seconds or 1e-9)
        return min(1.0, done)

    def rate(self, step: int, progress: float) -> float:
        """The share of the peak learning rate: a short warm-up, a plateau, a linear decay to zero."""
        return min(1.0, (step + 1) / self.warm_up) * min(1.0, (1 - progress) / (1 - self.hold))


def _drawers(workers: int) -> ProcessPoolExecutor:
    """Processes that draw, with one thread each; spawned, because a fork would inherit torch's threads in an undefined state."""
    return ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (1,))


@dataclass
class Loop:
    """Runs a phase to its end, resuming from its checkpoint."""

    folder: Path
    pace: Pace
    workers: int = 0
    checkpoint_every: float = 120.0  # seconds
    log_every: int = 50
    figures: dict[str, float] = field(default_factory=dict)

    def run(self, phase: Phase) -> None:
        """Train a phase to its end and save its last state in the checkpoint.

        Raises:
            TrainingError: the loss or the weights are no longer finite; the last checkpoint stays.
            WriteError: checkpoint or log cannot be written; the last checkpoint stays.
        """
        path = self.folder / f"{phase.name}.pt"
        begun, before = self._resume(phase, path)
        step = begun
        started = saved = time.monotonic()
        pool = _drawers(self.workers) if self.workers else None
        ahead: dict[int, Future[Any]] = {}
        try:
            while (progress := self._agreed(self.pace.progress(step, before + time.monotonic() - started))) < 1:
                batch = self._batch(phase, step, progress, pool, ahead)
                loss, figures = phase.loss(batch, progress)
                phase.optimiser.step(loss, self.pace.rate(step, progress))
                step += 1
                elapsed = before + time.monotonic() - started
                if self.rank:
                    continue
                self._note(phase.name, step, loss, figures)
                if step % self.log_every == 0:
                    self._log(phase.name, step, elapsed)
                if time.monotonic() - saved >= self.checkpoint_every:
                    self._save(phase, path, step, elapsed)
                    saved = time.monotonic()
        finally:
            if pool is not None:
                pool.shutdown(cancel_futures=True)
        if not self.rank and step > begun:
            elapsed = before + time.monotonic() - started
            self._log(phase.name, step, elapsed)
            self._save(phase, path, step, elapsed)

    @property
    def rank(self) -> int:
        """The rank of this process among those that train together."""
        return distributed.get_rank() if distributed.is_initialized() else 0

    @property
    def world(self) -> int:
        """How many processes train together."""
        return distributed.get_world_size() if distributed.is_initialized() else 1

    def _agreed(self, progress: float) -> float:
        """The first process's progress: clocks differ, and all must use one learning rate and end at one step."""
        if self.world == 1:
            return progress
        shared = torch.tensor([progress], dtype=torch.float64)
        distributed.broadcast(shared, 0)
        return shared.item()

    def _resume(self, phase: Phase, path: Path) -> tuple[int, float]:
        if not path.exists():
            return 0, 0.0
        reached, state = checkpoint(path)
        spoiled = not_finite(state["masters"])
        if spoiled:
            raise TrainingError(f"{path} holds weights that are not finite ({spoiled[0]}); remove the folder and train again")
        restored(path, phase.masters, state["masters"])
        restored(path, phase.optimiser, state["optimiser"])
        self.figures = dict(reached.figures)
        return reached.step, reached.elapsed

    def _batch(self, phase: Phase, step: int, progress: float, pool: ProcessPoolExecutor | None, ahead: dict[int, Future[Any]]) -> Any:
        if pool is None:
            draw, arguments = phase.order(step, self.rank, progress)
            return draw(*arguments)
        for coming in range(step, step + 2 * self.workers + 1):
            if coming not in ahead:
                at = self.pace.progress(coming, 0) if self.pace.steps else progress
                draw, arguments = phase.order(coming, self.rank, at)
                ahead[coming] = pool.submit(draw, *arguments)
        return ahead.pop(step).result()

    def _note(self, name: str, step: int, loss: Tensor, figures: dict[str, float]) -> None:
        reached = float(loss.detach())
        if not math.isfinite(reached):
            raise self._diverged(name, step, f"the loss is {reached}")
        for key, value in {"loss": reached, **figures}.items():
            self.figures[key] = 0.97 * self.figures.get(key, value) + 0.03 * value

    def _log(self, name: str, step: int, elapsed: float) -> None:
        line = {"phase": name, "step": step, "seconds": round(elapsed, 1)}
        rounded = {key: round(value, 4) for key, value in self.figures.items()}
        append_line(self.folder / "log.jsonl", json.dumps({**line, **rounded}))

    def _diverged(self, name: str, step: int, what: str) -> TrainingError:
        path = self.folder / f"{name}.pt"
        kept = f"{path} holds the last checkpoint before" if path.exists() else f"there is no checkpoint of it in {self.folder} yet"
        return TrainingError(f"training of the {name} stopped in step {step}, because {what}; {kept}. Train again with another recipe")

    def _save(self, phase: Phase, path: Path, step: int, elapsed: float) -> None:
        """Write a checkpoint, whole or not at all."""
        masters = phase.masters.state_dict()
        spoiled = not_finite(masters)
        if spoiled:
            raise self._diverged(phase.name, step, f"{len(spoiled)} tensors of weights, {spoiled[0]} first, are not finite")
        state = {
            "masters": masters,
            "optimiser": phase.optimiser.state_dict(),
            "figures": self.figures,
            "step": step,
            "elapsed": elapsed,
        }
        write_made(path, lambda buffer: torch.save(state, buffer))
