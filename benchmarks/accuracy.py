"""Accuracy of the embedded model on held-out scenes, for every method and budget.

The embedded model's training matters here: some attention heads of its early layers were guided to the relevant patches, which
flatters methods that rank by attention. Its card says so; say so too when you quote these figures.

A stopped run resumes if weights, questions and settings are the same, and is refused if they are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, nullcontext
from multiprocessing import get_context
from typing import Any

import torch
import typer
from common import finished, progress_bar, save
from rich.console import Console
from rich.table import Table

import foveate
import foveate.demo
from foveate import FastV, Method, Pool, Random, TokenCarve
from foveate.demo.model.shapes import EMBEDDED_SHAPES
from foveate.demo.scenes.labels import GRID
from foveate.engine.remembered import remembered_features
from foveate.measure.scenes import balanced, digest, evaluate, summary

BUDGETS = (384, 288, 192, 144, 128, 96, 64, 32, 16)  # of the 576 visual tokens of a LLaVA's scene
METHODS: dict[str, Callable[[int], Method]] = {
    "TokenCarve": lambda keep: TokenCarve(keep=keep),
    "FastV": lambda keep: FastV(keep=keep),
    "Pool": lambda keep: Pool(keep=keep),
    "Random": lambda keep: Random(keep=keep),
}
FULL, BLIND = "all tokens", "no image"


class AccuracyRunner:
    """Asks one model the same questions under one method after another."""

    def __init__(self, shape: str, each: int, batch_size: int) -> None:
        self.model, self.processor = foveate.demo.load(shape=shape)
        self.asked, self.batch_size = balanced(each), batch_size
        self._open = ExitStack()
        self._open.enter_context(remembered_features(self.model))

    def run(self, name: str, keep: int) -> dict[str, Any]:
        """Scores by question family, by part and "overall", and which answers were right, in order."""
        method = METHODS[name](keep) if name in METHODS else None
        with nullcontext() if method is None else foveate.compress(self.model, method):
            results = evaluate(self.model, self.processor, self.asked, self.batch_size, without_image=name == BLIND)
        scores = {"overall" if family == "all" else family: score for family, score in summary(results).items()}
        shares = {f: {"share": s.share, "low": s.low, "high": s.high, "n": s.count} for f, s in scores.items()}
        return {"scores": shares, "right": "".join("01"[result.right] for result in results)}


_RUNNER: list[AccuracyRunner] = []


def _start(shape: str, each: int, batch_size: int) -> None:
    torch.set_num_threads(1)
    _RUNNER.append(AccuracyRunner(shape, each, batch_size))


def _run(name: str, keep: int) -> dict[str, Any]:
    return _RUNNER[0].run(name, keep)


def main(each: int = 60, batch_size: int = 16, processes: int = 2, budgets: str = "", shape: str = "llava") -> None:
    """Measure and write benchmarks/results/accuracy.json, or accuracy_SHAPE.json of another shape of the model.

    Args:
        each: held-out questions of each family.
        batch_size: questions at a time.
        processes: number of processes that share the work, with one thread each.
        budgets: visual tokens to keep, separated by commas; by default from two thirds of them down to one in 36.
        shape: of the embedded model, one of `foveate.demo.FOLDERS`.
    """
    every = (GRID // EMBEDDED_SHAPES[shape].merged) ** 2
    keeps = [int(keep) for keep in budgets.split(",")] if budgets else [keep * every // 576 for keep in BUDGETS]
    name = "accuracy" if shape == next(iter(EMBEDDED_SHAPES)) else f"accuracy_{shape.replace('-', '_')}"
    console = Console()
    asked = balanced(each)
    weights = hashlib.sha256((foveate.demo.path(shape) / "model.safetensors").read_bytes()).hexdigest()
    done = finished(name, {"weights": weights, "questions": digest(asked), "each": each})
    wanted = [(FULL, every), (BLIND, 0), *((method, keep) for keep in keeps for method in METHODS)]
    left = [pair for pair in wanted if f"{pair[0]}, {pair[1]}" not in done]
    with progress_bar() as progress, ProcessPoolExecutor(processes, get_context("spawn"), _start, (shape, each, batch_size)) as pool:
        task = progress.add_task("methods and budgets", total=len(wanted), completed=len(wanted) - len(left))
        running = {pool.submit(_run, *pair): f"{pair[0]}, {pair[1]}" for pair in left}
        for job in as_completed(running):
            done[running[job]] = job.result()
            progress.advance(task)
    results: dict[str, Any] = {
        "each": each,
        "scenes": len({sample.seed for sample in asked}),
        "questions": len(asked),
        "families": [sample.question.family for sample in asked],
        "budgets": keeps,
        "layer": TokenCarve(keep=1).layer,
        "by_family_at": 128 * every // 576,
        "full": done[f"{FULL}, {every}"],
        "no_image": done[f"{BLIND}, 0"],
        "methods": {method: {str(keep): done[f"{method}, {keep}"] for keep in keeps} for method in METHODS},
    }
    save(name, results)
    done.remove()
    view = Table("", *(str(keep) for keep in keeps), title=f"held-out accuracy, {len(asked)} questions")
    for method, cells in results["methods"].items():
        view.add_row(method, *(f"{cells[str(keep)]['scores']['overall']['share']:.1%}" for keep in keeps))
    console.print(view)


if __name__ == "__main__":
    typer.run(main)
