"""Accuracy of the embedded model on held-out scenes, for every method and budget, as it comes out.

The embedded model's upbringing matters here: some heads of its early layers were guided to the relevant patches, which
flatters methods that rank by attention. Its card says so, and so must whoever quotes these figures.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import typer
from common import progress_bar, save
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import foveate
import foveate.demo
from foveate import FastV, Method, Pool, Random, TokenCarve
from foveate.demo.evaluate import Sample, evaluate, samples, summary
from foveate.measure.quality import remembered_features

BUDGETS = (192, 128, 64)
METHODS: dict[str, Callable[[int], Method]] = {
    "TokenCarve": lambda keep: TokenCarve(keep=keep),
    "FastV": lambda keep: FastV(keep=keep),
    "Pool": lambda keep: Pool(keep=keep),
    "Random": lambda keep: Random(keep=keep),
}


class Runner:
    """Asks one model the same questions under one method after another."""

    def __init__(self, asked: list[Sample], progress: Progress, batch_size: int) -> None:
        self.model, self.processor = foveate.demo.load()
        self.asked, self.batch_size, self.progress = asked, batch_size, progress

    def run(self, name: str, method: Method | None = None, *, without_image: bool = False) -> dict[str, dict[str, float]]:
        """Scores by question family, and of all together as "overall"."""
        task = self.progress.add_task(name, total=len(self.asked))
        with nullcontext() if method is None else foveate.compress(self.model, method):
            results = evaluate(
                self.model,
                self.processor,
                self.asked,
                self.batch_size,
                lambda count: self.progress.advance(task, count),
                without_image=without_image,
            )
        scores = {"overall" if family == "all" else family: score for family, score in summary(results).items()}
        return {f: {"share": s.share, "low": s.low, "high": s.high, "n": s.count} for f, s in scores.items()}


def main(scenes: int = 200, batch_size: int = 16) -> None:
    """Measure and write benchmarks/results/accuracy.json."""
    console = Console()
    with progress_bar() as progress:
        runner = Runner(samples(scenes), progress, batch_size)
        with remembered_features(runner.model):
            full = runner.run("all 576 tokens")
            blind = runner.run("no image", without_image=True)
            methods = {name: {str(keep): runner.run(f"{name}, {keep}", make(keep)) for keep in BUDGETS} for name, make in METHODS.items()}
    results: dict[str, Any] = {"full": full, "no_image": blind, "methods": methods}
    settings = {"scenes": scenes, "budgets": BUDGETS, "layer": TokenCarve(keep=1).layer, "by_family_at": 128}
    save("accuracy", {**settings, **results})
    view = Table("", *(str(keep) for keep in BUDGETS), title=f"held-out accuracy, {full['overall']['n']} questions")
    for name, cells in methods.items():
        view.add_row(name, *(f"{cells[str(keep)]['overall']['share']:.1%}" for keep in BUDGETS))
    console.print(view)
    console.print(f"all tokens {full['overall']['share']:.1%}, no image {blind['overall']['share']:.1%}")


if __name__ == "__main__":
    typer.run(main)
