"""Draws the curves of benchmarks/results into docs/images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import every_method_tables
import typer
import unsupervised_plots
from common import RESULTS, load
from matplotlib.figure import Figure

from foveate.draw import information_loss
from foveate.draw.charts import Point, tokens_panel
from foveate.draw.palette import look
from foveate.files.writing import make_folder, write_figure
from foveate.measure.bench import plots as bench_plots
from foveate.measure.bench.records import Run

IMAGES = Path(__file__).parent.parent / "docs" / "images"
PARTS = {"overall": "all questions", "reading": "reading", "small things": "small things", "hop": "multi-hop"}


def accuracy() -> Figure:
    """Accuracy against visual tokens kept, for all questions and for the parts where the choice matters most."""
    data = load("accuracy")
    with look():
        figure = Figure(figsize=(10, 7.4), layout="constrained")
        panels = figure.subplots(2, 2)
        for axes, (part, title) in zip(panels.flat, PARTS.items(), strict=True):
            full, blind = data["full"]["scores"][part], data["no_image"]["scores"][part]
            lines = {
                name: [point(int(keep), cell["scores"][part]) for keep, cell in cells.items()] for name, cells in data["methods"].items()
            }
            axes.set_ylim(-2, 102)
            tokens_panel(axes, lines, point(576, full), 100 * blind["share"], f"{title} (n = {full['n']})")
        for axes in panels[:, 0]:
            axes.set_ylabel("answers right, %")
    return figure


def point(tokens: int, score: dict[str, Any]) -> Point:
    """A share of right answers in percent, with its interval."""
    return Point(tokens, 100 * score["share"], 100 * score["low"], 100 * score["high"])


def main() -> None:
    """Write docs/images/accuracy.png, bench.png, and every other picture whose results exist."""
    make_folder(IMAGES)
    bench_plots.draw(Run.load(RESULTS / "bench_llava.json"), IMAGES / "bench.png")
    write_figure(IMAGES / "accuracy.png", accuracy())
    if (RESULTS / "every_method.json").exists():
        write_figure(IMAGES / "every_method.png", every_method_tables.picture())
    if (RESULTS / "information_loss.json").exists():
        write_figure(IMAGES / "information_loss.png", information_loss.draw(load("information_loss")))
    if (RESULTS / "unsupervised.json").exists():
        write_figure(IMAGES / "pretrained_decoder.png", unsupervised_plots.draw(load("unsupervised")))


if __name__ == "__main__":
    typer.run(main)
