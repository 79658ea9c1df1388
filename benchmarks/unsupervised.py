"""What a pretrained decoder tells whose attention nobody supervised: `foveate demo build` makes the model, this measures it.

    python benchmarks/unsupervised.py --minutes 14      # on one core
    python benchmarks/unsupervised.py --minutes 60      # goes on with further pictures

Every picture is a part of its own: a stopped run resumes, and a longer one adds pictures to the same figures. With as many --pictures as
there are, nothing is measured and the figures are written again. benchmarks/sights.py says what is measured of each picture.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import finished, save
from rich.console import Console
from sights import BUDGETS, CUT, QUARTER, SIDE, Sight, explained, key, marks, measured, sight
from unsupervised_figures import figures

import foveate
from foveate import DivPrune, Explainer, FastV, TokenCarve, demo
from foveate.cli import main as command_line
from foveate.demo.scenes import VERSION
from foveate.engine.identity import identity
from foveate.engine.remembered import remembered_features
from foveate.explain.compressor.train import CompressorRecipe, train
from foveate.files.writing import make_folder
from foveate.measure.analysis.one_picture import OnePicture
from foveate.measure.facts import facts
from foveate.measure.scenes import evaluate

NAME, SHAPE = "unsupervised", "smollm2"
EXPLAINED = 3
"""Every third picture is explained as well, because backward passes take long."""
CHECKED = (TokenCarve(QUARTER, CUT), FastV(QUARTER, 12), DivPrune(QUARTER))
RECIPE = CompressorRecipe(batch=16, epochs=20, validation=0.25)
"""Few labels about few scenes: a tenth of them may be of no scene at all."""


def main(
    minutes: Annotated[float, typer.Option(help="stop before the next picture after so long; at least one is measured")] = 14,
    pictures: Annotated[int, typer.Option(help="held-out pictures at most")] = 200,
    labels: Annotated[int, typer.Option(help="questions for the labels of the Explainer; 0 leaves it out")] = 64,
    work: Annotated[Path, typer.Option(help="folder for labels and the Explainer's network")] = Path("out/unsupervised"),
) -> None:
    """Measure and write benchmarks/results/unsupervised.json."""
    torch.set_num_threads(1)
    end, console = time.monotonic() + 60 * minutes, Console(stderr=True)
    model, processor = demo.load(shape=SHAPE)
    if (side := model.config.vision_config.image_size // model.config.vision_config.patch_size) != SIDE:
        raise SystemExit(f"the model was built for {side * side} visual tokens; build it with --tokens {SIDE * SIDE}")
    known = facts(model)
    done = finished(NAME, {"weights": known["model"]["fingerprint"], "scenes": VERSION, "labels": labels})
    compressor = trained(work / f"{known['model']['fingerprint'][:12]}-{labels}", labels) if labels else None
    if compressor:
        Explainer(QUARTER, compressor=compressor).check(lambda: identity(model))
    longest, parts = 0.0, 0
    with remembered_features(model, most=4):
        if "check" not in done:
            done["check"] = checked(model, processor, sight(0))
        for seed in range(pictures):
            for name, measure in (("picture", measured), ("explained", explained)):
                part = f"{name} {seed:03d}"
                if part in done or (name == "explained" and seed % EXPLAINED):
                    continue
                begun = time.monotonic()
                if parts and begun + longest > end:
                    break
                shown = sight(seed)
                done[part] = measured(model, processor, shown, compressor) if measure is measured else explained(model, processor, shown)
                longest, parts = max(longest, time.monotonic() - begun), parts + 1
                console.print(f"{part}: {time.monotonic() - begun:.0f} s, {(end - time.monotonic()) / 60:.1f} minutes left")
    seeds = [seed for seed in range(pictures) if f"picture {seed:03d}" in done]
    shown = [sight(seed) for seed in seeds]
    known_pictures = [done[f"picture {seed:03d}"] for seed in seeds]
    explanations = [done.get(f"explained {seed:03d}") for seed in seeds]
    made = {"labels": labelled(compressor), "asked": labels} if compressor else None
    found = figures(shown, known_pictures, explanations)
    path = save(NAME, {"facts": known, "explainer": made, "check": done["check"], "budgets": list(BUDGETS), **found})
    console.print(f"written: {path} ({len(seeds)} pictures, {found['questions']} questions)")


def trained(work: Path, labels: int) -> str:
    """The folder of an Explainer's network that was trained on the model's own labels."""
    make_folder(work)
    words = ["labels", "scenes", "--model", f"demo-{SHAPE}", "--limit", str(labels), "--max-new-tokens", "8", "--batch", "8"]
    if status := command_line([*words, "--device", "cpu", "--out", str(work / "labels")]):
        raise SystemExit(f"foveate labels ended with status {status}")
    return str(train(work / "labels", work / "compressor", RECIPE, cpu=True).folder)


def labelled(compressor: str) -> int:
    """How many labels there were."""
    from foveate.explain.labels.label_files import shards
    from foveate.explain.labels.labelling import Tally

    folder = Path(compressor).parent / "labels"
    return Tally(folder).refresh().rows if shards(folder) else 0


def checked(model: Any, processor: Any, shown: Sight) -> dict[str, Any]:
    """Whether the answers are those of `generate`, uncompressed, without the picture and under three methods."""
    one = OnePicture(model, processor, shown.asked[0].image, shown.texts())
    rows = [("all tokens", marks(one.right), answered(model, processor, shown.asked))]
    rows.append(("no picture", marks(one.ask_blind()), answered(model, processor, shown.asked, without_image=True)))
    for method in CHECKED:
        plans = method.plans([one.view(method.layer, number) for number in range(len(shown.asked))])
        with foveate.compress(model, method):
            rows.append((key(method), marks(one.ask(method.layer, plans)[0]), answered(model, processor, shown.asked)))
    return {name: {"right": own, "generate": theirs} for name, own, theirs in rows}


def answered(model: Any, processor: Any, asked: Sequence[Any], *, without_image: bool = False) -> str:
    """Right answers by `generate`."""
    return marks([answer.right for answer in evaluate(model, processor, asked, without_image=without_image)])


if __name__ == "__main__":
    typer.run(main)
