"""Draws the curves of benchmarks/results into docs/images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import typer
from common import load
from matplotlib.axes import Axes

IMAGES = Path(__file__).parent.parent / "docs" / "images"
PARTS = {"overall": "all questions", "reading": "reading", "small things": "small things", "hop": "multi-hop"}
COLOURS = {"TokenCarve": "#d81b60", "FastV": "#1e88e5", "Pool": "#8d6e63", "Random": "#9e9e9e"}
MARKS = {"TokenCarve": "o", "FastV": "s", "Pool": "^", "Random": "x"}


def _panel(axes: Axes, data: dict[str, Any], part: str, title: str) -> None:
    budgets = data["budgets"]
    full = data["full"]["scores"][part]
    axes.axhline(full["share"], color="black", linewidth=1, label="all 576 tokens")
    for name, cells in data["methods"].items():
        scores = [cells[str(keep)]["scores"][part] for keep in budgets]
        axes.plot(budgets, [score["share"] for score in scores], color=COLOURS[name], marker=MARKS[name], markersize=4, label=name)
        axes.fill_between(
            budgets, [score["low"] for score in scores], [score["high"] for score in scores], color=COLOURS[name], alpha=0.12, linewidth=0
        )
    blind = data["no_image"]["scores"][part]
    axes.axhline(blind["share"], color="black", linewidth=1, linestyle=":", label="no image")
    axes.set(title=f"{title} (n = {full['n']})", xscale="log", ylim=(-0.02, 1.02), xlabel="visual tokens of 576, from layer 2 on")
    labels = ["" if keep == 144 else str(keep) for keep in budgets]  # it has no room beside 128
    axes.set_xticks(budgets, labels, rotation=60)
    axes.minorticks_off()
    axes.grid(alpha=0.25)


def main() -> None:
    """Write docs/images/accuracy.png."""
    data = load("accuracy")
    figure, panels = plt.subplots(1, len(PARTS), figsize=(15, 4.2), sharey=True, layout="constrained")
    for axes, (part, title) in zip(panels, PARTS.items(), strict=True):
        _panel(axes, data, part, title)
    panels[0].set_ylabel("answers right")
    panels[-1].legend(fontsize=8)
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / "accuracy.png", dpi=110)


if __name__ == "__main__":
    typer.run(main)
