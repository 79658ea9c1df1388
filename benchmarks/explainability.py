"""Explainability-guided compression on held-out scenes: accuracy at equal tokens, and how well relevance is predicted.

Every method keeps the same share of the visual tokens. `layer` says before which layer: with methods that cut at the input, the
language model never sees the dropped tokens; with those that cut before layer 2, two layers do. Networks of compressors.py that are
ablations are evaluated at a quarter of the tokens only. A stopped run resumes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import finished, progress_bar, save
from compressors import NETWORKS
from torch import Tensor

import foveate
import foveate.demo
from foveate import ConvCompressor, Explainer, FastV, FirstLayerAttention, Method, Oracle, Plan, Pool, Random, TokenCarve, View
from foveate.demo.model.language import prompt
from foveate.engine.remembered import remembered_features
from foveate.explain.compressor.compressor import EMBEDDED_COMPRESSOR, WEIGHTS
from foveate.explain.compressor.measures import overlap, rank_correlation
from foveate.measure.scenes import SceneAnswer, SceneQuestion, balanced, digest, evaluate, summary

SHARES = (0.5, 0.25, 0.125)
ABLATED = 0.25
"""The share at which ablations are evaluated."""
FULL, BLIND, OURS = "all tokens", "no image", "Explainer"
METHODS: dict[str, Callable[[float, Sequence[Tensor]], Method]] = {
    "Oracle": lambda keep, known: Oracle(keep=keep, relevance=known),
    "FirstLayerAttention": lambda keep, _: FirstLayerAttention(keep=keep),
    "Random": lambda keep, _: Random(keep=keep, layer=0),
    "Pool": lambda keep, _: Pool(keep=keep, layer=0),
    "FastV": lambda keep, _: FastV(keep=keep),
    "TokenCarve": lambda keep, _: TokenCarve(keep=keep),
    "Random, layer 2": lambda keep, _: Random(keep=keep),
}


@dataclass(frozen=True)
class RecordedScores(Method):
    """Wraps another method and records its ranking of all tokens."""

    inner: Method = field(default_factory=FirstLayerAttention)
    layer: int = 0
    scores: list[Tensor] = field(default_factory=list, compare=False)

    @property
    def needs(self) -> frozenset[str]:
        """What the method needs."""
        return self.inner.needs

    def plan(self, view: View) -> Plan:
        """The method's own."""
        self.scores.append(self.inner.score(view))
        return self.inner.plan(view)


class ExplainabilityRunner:
    """Asks the embedded model the same questions under one method after another.

    Args:
        each: held-out questions of each family.
        batch_size: questions at a time.
        networks: folders of compressors, by their names in the table.
    """

    def __init__(self, each: int, batch_size: int, networks: Mapping[str, str]) -> None:
        self.model, self.processor = foveate.demo.load()
        asked = balanced(each)
        self.batches = [asked[start : start + batch_size] for start in range(0, len(asked), batch_size)]
        self.networks = networks
        self._open = ExitStack()
        self._open.enter_context(remembered_features(self.model))

    def explain(self, number: int) -> list[list[float]]:
        """The relevance (n,) of each question's tokens for the model's own answer."""
        inputs = self._inputs(self.batches[number])
        return [image.mean.tolist() for image in foveate.relevance(self.model, inputs, max_new_tokens=64).images]

    def run(self, name: str, keep: float, relevance: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
        """Scores by family and part, which answers were right, and how many relevant tokens were kept and ranked high."""
        results: list[SceneAnswer] = []
        overlaps: list[float] = []
        ranked: dict[str, list[float]] = {"correlation": [], **{f"top {share}": [] for share in SHARES}}
        for batch, values in zip(self.batches, relevance, strict=True):
            known = [torch.tensor(own) for own in values]
            method = self._method(name, keep, known)
            with nullcontext() if method is None else foveate.compress(self.model, method) as handle:
                results += evaluate(self.model, self.processor, batch, len(batch), without_image=name == BLIND)
                if handle is not None:
                    kept = [image.plan.kept for image in handle.report.images]
                    overlaps += [held(own, stayed) for own, stayed in zip(known, kept, strict=True)]
            if isinstance(method, RecordedScores):
                for own, scores in zip(known, method.scores, strict=True):
                    ranked["correlation"].append(rank_correlation(scores, own))
                    for share in SHARES:
                        ranked[f"top {share}"].append(overlap(scores, own, share))
        scores = {part: {"share": s.share, "low": s.low, "high": s.high, "n": s.count} for part, s in summary(results).items()}
        layer = None if method is None else method.layer
        right = "".join("01"[r.right] for r in results)
        means = {name: float(np.mean(values)) if values else None for name, values in {"overlap": overlaps, **ranked}.items()}
        return {"scores": scores, "right": right, "layer": layer, **means}

    def _method(self, name: str, keep: float, known: Sequence[Tensor]) -> Method | None:
        if name in (FULL, BLIND):
            return None
        if name in self.networks:
            return RecordedScores(keep=keep, inner=Explainer(keep=keep, compressor=self.networks[name]))
        method = METHODS[name](keep, known)
        return RecordedScores(keep=keep, inner=method) if isinstance(method, FirstLayerAttention) else method

    def _inputs(self, batch: Sequence[SceneQuestion]) -> Any:
        texts = [prompt(sample.question.text) for sample in batch]
        return self.processor(images=[sample.image for sample in batch], text=texts, padding=True, return_tensors="pt")


def held(relevance: Tensor, kept: Tensor) -> float:
    """The share of the k most relevant tokens that were kept, for k kept tokens."""
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


_RUNNER: list[ExplainabilityRunner] = []


def _start(each: int, batch_size: int, networks: Mapping[str, str]) -> None:
    torch.set_num_threads(1)
    _RUNNER.append(ExplainabilityRunner(each, batch_size, networks))


def _explain(number: int) -> list[list[float]]:
    return _RUNNER[0].explain(number)


def _run(name: str, keep: float, relevance: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    return _RUNNER[0].run(name, keep, relevance)


def main(
    each: int = 40,
    batch_size: int = 8,
    processes: int = 2,
    networks: Annotated[Path | None, typer.Option(help="folder that compressors.py wrote")] = None,
) -> None:
    """Measure and write benchmarks/results/explainability.json.

    Args:
        each: held-out questions of each family.
        batch_size: questions at a time.
        processes: number of processes that share the work, with one thread each.
        networks: folder of further networks, which are evaluated if present; ablations at one budget.
    """
    there = {name: network for name, network in NETWORKS.items() if networks and (networks / network.folder / WEIGHTS).exists()}
    ablations = [name for name, network in there.items() if network.ablation]
    rivals = [name for name in there if name not in ablations]
    folders = {OURS: EMBEDDED_COMPRESSOR, **{name: str(networks / network.folder) for name, network in there.items() if networks}}
    asked = balanced(each)
    settings = {
        "weights": digest_of(foveate.demo.path() / "model.safetensors"),
        "questions": digest(asked),
        "each": each,
        "batch": batch_size,
    }
    done = finished("explainability", settings)

    marks = {name: f", {digest_of(weights(folder))}" for name, folder in folders.items()}

    def key(name: str, keep: float) -> str:
        return f"{name}, {keep}{marks.get(name, '')}"

    wanted = [(FULL, 1.0), (BLIND, 0.0), *((name, keep) for keep in SHARES for name in (OURS, *METHODS, *rivals))]
    wanted += [(name, ABLATED) for name in ablations]
    with progress_bar() as progress, ProcessPoolExecutor(processes, get_context("spawn"), _start, (each, batch_size, folders)) as pool:

        def gather(title: str, jobs: dict[str, tuple[Any, ...]]) -> None:
            left = {key: job for key, job in jobs.items() if key not in done}
            task = progress.add_task(title, total=len(jobs), completed=len(jobs) - len(left))
            running = {pool.submit(*job): key for key, job in left.items()}
            for job in as_completed(running):
                done[running[job]] = job.result()
                progress.advance(task)

        batches = range(-(-len(asked) // batch_size))
        gather("relevance", {f"batch {number}": (_explain, number) for number in batches})
        known = [done[f"batch {number}"] for number in batches]
        gather("methods and budgets", {key(*pair): (_run, *pair, known) for pair in wanted})
    found = {pair: done[key(*pair)] for pair in wanted}
    full, blind = found[FULL, 1.0], found[BLIND, 0.0]
    for result in found.values():
        result |= compared(result["right"], full["right"], blind["right"])
    methods = {name: {str(keep): found[name, keep] for keep in SHARES} for name in (OURS, *METHODS, *rivals)}
    results = {"each": each, "questions": len(asked), "shares": list(SHARES), "full": full, "no_image": blind, "methods": methods}
    made = {name: described(folder) for name, folder in folders.items()}
    # Finished parts stay in their folder, so that a further network costs only its own time.
    save("explainability", {**results, "ablations": {name: found[name, ABLATED] for name in ablations}, "networks": made})


def weights(folder: str) -> Path:
    """The file of a network's weights."""
    return (foveate.demo.path().parent / "compressor" if folder == EMBEDDED_COMPRESSOR else Path(folder)) / WEIGHTS


def digest_of(file: Path) -> str:
    """The beginning of a file's SHA-256."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def described(folder: str) -> dict[str, Any]:
    """A network's shape, and how it was trained."""
    network = ConvCompressor.from_pretrained(folder)
    return {
        "config": network.config.to_dict(),
        "parameters": sum(value.numel() for value in network.parameters()),
        "gradients": network.labels["gradients"],
        "training": network.training_facts,
    }


if __name__ == "__main__":
    typer.run(main)
