"""Whether a compressor that learned from few visual tokens works for many: the embedded Qwen2-VL on the same scenes at two sizes.

Each network is trained on labels of one size and tested on held-out scenes at both. An image of 224 pixels is 64 visual tokens, one of
336 is 144. Finished labels and networks are skipped, and stopped runs resume.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from common import RESULTS, progress_bar, save
from compressors import RECIPE, foveate
from PIL import Image
from rich.console import Console
from rich.table import Table

from foveate import ConvCompressor
from foveate.demo.scenes import scene
from foveate.explain.compressor.measures import quality
from foveate.explain.compressor.training_data import LabelDataset
from foveate.files.writing import make_folder, write_picture, write_whole

SIZES = (224, 336)
NETWORKS = {"grid": (), "sequence": ("--network", "sequence")}


def draw(folder: Path, split: str, scenes: int, size: int) -> Path:
    """Scenes of one size with a question each, as a data set of JSON lines."""
    make_folder(folder)
    rows = []
    for seed in range(scenes):
        shown = scene(seed, split)  # type: ignore[arg-type]
        short = [question for question in shown.questions if question.family != "description"]
        asked = short[int(np.random.default_rng((3, seed)).integers(len(short)))]
        name = f"{seed:05d}.png"
        if not (folder / name).exists():
            write_picture(folder / name, shown.image.resize((size, size), Image.Resampling.LANCZOS))
        rows.append({"image": name, "question": asked.text, "answer": asked.answer})
    path = folder / "rows.jsonl"
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


@torch.inference_mode()
def judged(network: Path, labels: Path) -> dict[str, float]:
    """How well a network's predictions rank the tokens of labels that it has not seen."""
    compressor, rows = ConvCompressor.from_pretrained(network), LabelDataset(labels, states=False)
    found = []
    for place in range(len(rows)):
        row = rows[place]
        if float(row.relevance.sum()) > 0:
            found.append(quality(compressor([row.inputs])[0], row.relevance).to_dict())
    return {"images": len(found), **{name: float(np.mean([cells[name] for cells in found])) for name in found[0]}}


def main(out: Path = Path("out/resolutions"), training: int = 450, held_out: int = 150, processes: int = 2) -> None:
    """Measure and write benchmarks/results/resolutions.json.

    Args:
        out: folder for images, labels and networks.
        training: scenes to learn from, with a question each.
        held_out: scenes to test on.
        processes: number of parallel processes, with one thread each.
    """
    counts = {"train": training, "held_out": held_out}
    data = {(split, size): draw(out / f"{split}-{size}", split, count, size) for split, count in counts.items() for size in SIZES}
    label = [
        ["labels", str(rows), "--model", "demo-qwen2-vl", "--max-new-tokens", "12", "--out", str(out / f"labels-{split}-{size}")]
        for (split, size), rows in data.items()
    ]
    train = [
        ["train", str(out / f"labels-train-{size}"), "--out", str(out / f"{name}-{size}"), *RECIPE, *options]
        for name, options in NETWORKS.items()
        for size in SIZES
    ]
    with progress_bar() as progress, ThreadPoolExecutor(processes) as pool:
        task = progress.add_task("labels and networks", total=len(label) + len(train))
        for stage in (label, train):
            for _ in pool.map(foveate, stage):
                progress.advance(task)
    cells: list[dict[str, Any]] = [
        {"network": name, "trained": trained, "judged": size, **judged(out / f"{name}-{trained}", out / f"labels-held_out-{size}")}
        for name in NETWORKS
        for size in SIZES
        for trained in SIZES
    ]
    view = Table("network", "trained at", "judged at", "top 50 %", "top 25 %", "rank correlation")
    for cell in cells:
        shown = [f"{cell[name]:.3f}" for name in ("overlap_50", "overlap_25", "rank_correlation")]
        view.add_row(cell["network"], str(cell["trained"]), str(cell["judged"]), *shown)
    Console().print(view)
    save(
        "resolutions",
        {"training": training, "held_out": held_out, "tokens": {str(size): (size // 28) ** 2 for size in SIZES}, "cells": cells},
    )
    Console().print(f"written to {(RESULTS / 'resolutions.json').name}")


if __name__ == "__main__":
    typer.run(main)
