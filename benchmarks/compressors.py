"""Labels of the embedded model's scenes, and every network that docs/explainability.md compares, trained on them.

All are trained alike; each ablation differs in one thing from the grid network with attention alone. Finished folders are
skipped, and stopped runs resume.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import typer
from common import progress_bar

LABELS, PLAIN_LABELS = "labels", "labels-without-gradients"
RECIPE = ("--batch", "32", "--epochs", "6")


@dataclass(frozen=True)
class Network:
    """One network: its folder, the options of `foveate train`, its labels, and whether it is an ablation or is compared at all budgets."""

    folder: str
    options: tuple[str, ...] = ()
    labels: str = LABELS
    ablation: bool = True


NETWORKS = {
    "Explainer, attention alone": Network("attention", ablation=False),
    "Explainer, published network": Network("published", ("--network", "sequence", "--heads", "mean", "--values", "plain"), ablation=False),
    "along the sequence of tokens (1-D)": Network("sequence", ("--network", "sequence")),
    "heads averaged": Network("mean", ("--heads", "mean")),
    "3 layers": Network("layers3", ("--layers", "3")),
    "7 layers": Network("layers7", ("--layers", "7")),
    "10 layers": Network("layers10", ("--layers", "10")),
    "labels without gradients": Network("no_gradients", labels=PLAIN_LABELS),
}


def main(out: Path = Path("out/compressors"), samples: int = 1280, processes: int = 2) -> None:
    """Make the labels, then train the networks, several at a time.

    Args:
        out: folder for labels and networks.
        samples: questions to ask for labels.
        processes: networks trained at a time, with one thread each.
    """
    asked = ["scenes", "--limit", str(samples), "--max-new-tokens", "12"]
    jobs = [
        ["labels", *asked, "--out", str(out / LABELS), "--states"],
        ["labels", *asked, "--out", str(out / PLAIN_LABELS), "--no-gradients"],
    ]
    trained = [["train", str(out / n.labels), "--out", str(out / n.folder), *RECIPE, *n.options] for n in NETWORKS.values()]
    with progress_bar() as progress, ThreadPoolExecutor(processes) as pool:
        task = progress.add_task("labels and networks", total=len(jobs) + len(trained))
        for stage in (jobs, trained):
            for _ in pool.map(foveate, stage):
                progress.advance(task)


def foveate(words: list[str]) -> None:
    """Run one command with one thread."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "foveate", *words], env=alone, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"foveate {' '.join(words)} failed:\n{done.stderr}")


if __name__ == "__main__":
    typer.run(main)
