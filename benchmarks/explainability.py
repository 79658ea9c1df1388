"""Explainability-guided compression on held-out scenes: accuracy at equal tokens, and how well relevance is foretold.

Every method keeps the same share of the visual tokens. `layer` says where they leave: methods that cut at the input have not let
the language model look at the rest at all, those that cut before layer 2 have, twice. A run that was stopped goes on where it ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import Done, progress_bar, save
from torch import Tensor

import foveate
import foveate.demo
from foveate import Explainer, FastV, FirstLayerAttention, Method, Oracle, Plan, Pool, Random, TokenCarve, View
from foveate.demo.evaluate import Result, Sample, balanced, digest, evaluate, summary
from foveate.demo.language import prompt
from foveate.explain.measures import rank_correlation
from foveate.measure.quality import remembered_features

SHARES = (0.5, 0.25, 0.125)
FULL, BLIND = "all tokens", "no image"
METHODS: dict[str, Callable[[float, Sequence[Tensor]], Method]] = {
    "Oracle": lambda keep, known: Oracle(keep=keep, relevance=known),
    "Explainer": lambda keep, _: Explainer(keep=keep),
    "FirstLayerAttention": lambda keep, _: FirstLayerAttention(keep=keep),
    "Random": lambda keep, _: Random(keep=keep, layer=0),
    "Pool": lambda keep, _: Pool(keep=keep, layer=0),
    "FastV": lambda keep, _: FastV(keep=keep),
    "TokenCarve": lambda keep, _: TokenCarve(keep=keep),
    "Random, layer 2": lambda keep, _: Random(keep=keep),
}


@dataclass(frozen=True)
class Watcher(Method):
    """Keeps everything, and notes how other methods at the language model's input rank the tokens."""

    keep: int | float = 1.0
    layer: int = 0
    watched: tuple[Method, ...] = ()
    seen: list[list[Tensor]] = field(default_factory=list, compare=False)

    @property
    def needs(self) -> frozenset[str]:
        """What the watched methods need."""
        return frozenset[str]().union(*(method.needs for method in self.watched))

    def plan(self, view: View) -> Plan:
        """All tokens stay."""
        self.seen.append([method.score(view) for method in self.watched])
        return Plan.identity(len(view))


class Runner:
    """Asks the embedded model the same questions under one method after another.

    Args:
        each: held-out questions of each family.
        batch_size: questions at a time.
        compressors: further networks to try, by the name in the table, as folders.
    """

    def __init__(self, each: int, batch_size: int, compressors: dict[str, str]) -> None:
        self.model, self.processor = foveate.demo.load()
        asked = balanced(each)
        self.batches = [asked[start : start + batch_size] for start in range(0, len(asked), batch_size)]
        self.networks = {"Explainer": Explainer(), **{name: Explainer(compressor=folder) for name, folder in compressors.items()}}
        self._open = ExitStack()
        self._open.enter_context(remembered_features(self.model))

    def explain(self, number: int) -> dict[str, Any]:
        """The relevance (n,) of each question's tokens for the model's own answer, and how well each ranking at the input foretells it."""
        inputs = self._inputs(self.batches[number])
        known = [image.mean for image in foveate.relevance(self.model, inputs, max_new_tokens=64).images]
        rankings = {**self.networks, "FirstLayerAttention": FirstLayerAttention()}
        watcher = Watcher(watched=tuple(rankings.values()))
        with foveate.compress(self.model, watcher), torch.inference_mode():
            self.model(**inputs, logits_to_keep=1)
        correlations = {
            name: [rank_correlation(own[place], relevance) for own, relevance in zip(watcher.seen, known, strict=True)]
            for place, name in enumerate(rankings)
        }
        return {"relevance": [relevance.tolist() for relevance in known], "correlation": correlations}

    def run(self, name: str, keep: float, relevance: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
        """Scores by family and part, which questions were right, and the share of the most relevant tokens that stayed."""
        results: list[Result] = []
        overlaps: list[float] = []
        for batch, values in zip(self.batches, relevance, strict=True):
            known = [torch.tensor(own) for own in values]
            method = self._method(name, keep, known)
            with nullcontext() if method is None else foveate.compress(self.model, method) as handle:
                results += evaluate(self.model, self.processor, batch, len(batch), without_image=name == BLIND)
                if handle is not None:
                    kept = [image.plan.kept for image in handle.report.images]
                    overlaps += [overlap(own, stayed) for own, stayed in zip(known, kept, strict=True)]
        scores = {part: {"share": s.share, "low": s.low, "high": s.high, "n": s.count} for part, s in summary(results).items()}
        layer = None if method is None else method.layer
        return {"scores": scores, "right": "".join("01"[r.right] for r in results), "overlap": overlaps, "layer": layer}

    def _method(self, name: str, keep: float, known: Sequence[Tensor]) -> Method | None:
        if name in (FULL, BLIND):
            return None
        if name in METHODS:
            return METHODS[name](keep, known)
        return Explainer(keep=keep, compressor=self.networks[name].compressor)

    def _inputs(self, batch: Sequence[Sample]) -> Any:
        texts = [prompt(sample.question.text) for sample in batch]
        return self.processor(images=[sample.image for sample in batch], text=texts, padding=True, return_tensors="pt")


def overlap(relevance: Tensor, kept: Tensor) -> float:
    """Of as many most relevant tokens as were kept, the share that was."""
    best = relevance.topk(len(kept)).indices
    return float(torch.isin(best, kept.cpu()).float().mean())


def compared(right: str, full: str, blind: str, draws: int = 10_000) -> dict[str, dict[str, float]]:
    """Share of the full model's accuracy, and of what the image adds to it, with 95 % intervals from resampled questions."""
    own, whole, none = (np.array([int(mark) for mark in marks], dtype=float) for marks in (right, full, blind))
    picks = np.random.default_rng(0).integers(len(own), size=(draws, len(own)))
    picks = np.concatenate([np.arange(len(own))[None], picks])
    a, b, c = (marks[picks].mean(1) for marks in (own, whole, none))
    found = {"of_full": a / b, "of_image": (a - c) / (b - c)}
    bounds = {name: np.percentile(values[1:], (2.5, 97.5)) for name, values in found.items()}
    return {name: {"share": values[0], "low": bounds[name][0], "high": bounds[name][1]} for name, values in found.items()}


_RUNNER: list[Runner] = []


def _start(each: int, batch_size: int, compressors: dict[str, str]) -> None:
    torch.set_num_threads(1)
    _RUNNER.append(Runner(each, batch_size, compressors))


def _explain(number: int) -> dict[str, Any]:
    return _RUNNER[0].explain(number)


def _run(name: str, keep: float, relevance: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    return _RUNNER[0].run(name, keep, relevance)


def main(
    each: int = 40,
    batch_size: int = 8,
    processes: int = 2,
    compressor: Annotated[list[str], typer.Option(help="a further network, as NAME=FOLDER")] = [],  # noqa: B006 - as typer wants it
) -> None:
    """Measure and write benchmarks/results/explainability.json.

    Args:
        each: held-out questions of each family.
        batch_size: questions at a time.
        processes: that share the work, of one thread each.
        compressor: further networks.
    """
    more = dict(pair.split("=", 1) for pair in compressor)
    asked = balanced(each)
    files = [
        foveate.demo.path() / "model.safetensors",
        *(Path(folder) / "compressor.safetensors" for folder in (_shipped(), *more.values())),
    ]
    weights = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    done = Done.of("explainability", {"weights": weights, "questions": digest(asked), "each": each, "batch": batch_size})
    numbers = range(-(-len(asked) // batch_size))
    wanted = [(FULL, 1.0), (BLIND, 0.0), *((name, keep) for keep in SHARES for name in (*METHODS, *more))]
    with progress_bar() as progress, ProcessPoolExecutor(processes, get_context("spawn"), _start, (each, batch_size, more)) as pool:

        def gather(title: str, jobs: dict[str, tuple[Any, ...]]) -> None:
            left = {key: job for key, job in jobs.items() if key not in done.pairs}
            task = progress.add_task(title, total=len(jobs), completed=len(jobs) - len(left))
            running = {pool.submit(*job): key for key, job in left.items()}
            for finished in as_completed(running):
                done.add(running[finished], finished.result())
                progress.advance(task)

        gather("relevance", {f"batch {number}": (_explain, number) for number in numbers})
        explained = [done.pairs[f"batch {number}"] for number in numbers]
        known = [batch["relevance"] for batch in explained]
        gather("methods and budgets", {f"{name}, {keep}": (_run, name, keep, known) for name, keep in wanted})
    pairs = {key: result for key, result in done.pairs.items() if not key.startswith("batch ")}
    full, blind = pairs[f"{FULL}, 1.0"], pairs[f"{BLIND}, 0.0"]
    for result in pairs.values():
        result |= compared(result["right"], full["right"], blind["right"])
        result["overlap"] = float(np.mean(result["overlap"])) if result["overlap"] else None
    names = explained[0]["correlation"]
    correlations = {name: float(np.mean([value for batch in explained for value in batch["correlation"][name]])) for name in names}
    methods = {name: {str(keep): pairs[f"{name}, {keep}"] for keep in SHARES} for name in (*METHODS, *more)}
    results = {"each": each, "questions": len(asked), "shares": list(SHARES), "full": full, "no_image": blind, "methods": methods}
    save("explainability", {**results, "correlation": correlations})
    done.forget()


def _shipped() -> Path:
    return foveate.demo.path().parent / "compressor"


if __name__ == "__main__":
    typer.run(main)
