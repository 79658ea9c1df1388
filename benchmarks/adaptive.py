"""Budgets that follow the image against fixed ones, at equal average tokens, on held-out questions of the embedded model.

The mass is fitted on the same pictures and questions, without their answers, so that the average is the fixed budget. A stopped run
resumes if weights, questions and settings are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import typer
from common import finished, progress_bar, save
from rich.console import Console

import foveate
import foveate.demo
from foveate import FastV, Method, TokenCarve
from foveate.demo.scenes import scene
from foveate.engine.remembered import remembered_features
from foveate.measure.fit_mass import fit_mass
from foveate.measure.scenes import SceneQuestion, balanced, digest, evaluate, prompt_of
from foveate.methods.mass import MassMethod

FULL = "all tokens"
METHODS: dict[str, Callable[..., MassMethod]] = {"FastV": FastV, "TokenCarve": TokenCarve}
MOST, LEAST = 288, 16
"""Bounds of the budgets that follow the image: half of the 576 tokens, and one in 36."""


class AdaptiveRunner:
    """Asks one model the same questions under fixed budgets and under those that follow the image."""

    def __init__(self, asked: list[SceneQuestion], keep: int, batch_size: int) -> None:
        self.model, self.processor = foveate.demo.load()
        self.asked, self.keep, self.batch_size = asked, keep, batch_size

    def run(self, name: str, *, follows: bool) -> dict[str, Any]:
        """Which answers were right and how many tokens each picture kept, in order, and the method."""
        method = self._method(name, follows=follows)
        tokens: list[int] = []
        with nullcontext() if method is None else foveate.compress(self.model, method) as handle:
            note = None if handle is None else lambda _: tokens.extend(image.tokens_after for image in handle.report.images)
            results = evaluate(self.model, self.processor, self.asked, self.batch_size, note)
        return {"method": str(method), "right": "".join("01"[result.right] for result in results), "tokens": tokens}

    def _method(self, name: str, *, follows: bool) -> Method | None:
        if name == FULL:
            return None
        if not follows:
            return METHODS[name](keep=self.keep)
        return fit_mass(self.model, METHODS[name](keep=MOST, at_least=LEAST, mass=1.0), self._batches(), self.keep).method

    def _batches(self) -> Iterator[Any]:
        for start in range(0, len(self.asked), self.batch_size):
            batch = self.asked[start : start + self.batch_size]
            texts = [prompt_of(self.processor, sample.question.text) for sample in batch]
            yield self.processor(images=[sample.image for sample in batch], text=texts, padding=True, return_tensors="pt")


def main(each: int = 10, keep: int = 64, batch_size: int = 10) -> None:
    """Measure and write benchmarks/results/adaptive.json.

    Args:
        each: held-out questions of each family.
        keep: visual tokens of 576, exactly or on average.
        batch_size: questions at a time.
    """
    torch.set_num_threads(1)
    asked = balanced(each)
    weights = hashlib.sha256((foveate.demo.path() / "model.safetensors").read_bytes()).hexdigest()
    done = finished("adaptive", {"weights": weights, "questions": digest(asked), "each": each, "keep": keep})
    runner = AdaptiveRunner(asked, keep, batch_size)
    wanted = [(FULL, False), *((name, follows) for name in METHODS for follows in (False, True))]
    with progress_bar() as progress, remembered_features(runner.model):
        task = progress.add_task("methods and budgets", total=len(wanted))
        for name, follows in wanted:
            key = f"{name}, {follows}"
            if key not in done:
                done[key] = runner.run(name, follows=follows)
            progress.advance(task)
    shown = {sample.seed: scene(sample.seed, "held_out") for sample in asked}
    results: dict[str, Any] = {
        "each": each,
        "keep": keep,
        "most": MOST,
        "least": LEAST,
        "questions": len(asked),
        "families": [sample.question.family for sample in asked],
        "tags": [list(sample.question.tags) for sample in asked],
        "things": [len(shown[sample.seed].items) for sample in asked],
        "signs": [sum(item.kind == "sign" for item in shown[sample.seed].items) for sample in asked],
        "full": done[f"{FULL}, False"]["right"],
        "methods": {name: {"fixed": done[f"{name}, False"], "follows": done[f"{name}, True"]} for name in METHODS},
    }
    save("adaptive", results)
    done.remove()
    for name, cells in results["methods"].items():
        for kind, cell in cells.items():
            right, tokens = cell["right"].count("1"), sum(cell["tokens"]) / len(cell["tokens"])
            Console().print(f"{name}, {kind}: {right} of {len(asked)} right, {tokens:.1f} tokens, {cell['method']}")


if __name__ == "__main__":
    typer.run(main)
