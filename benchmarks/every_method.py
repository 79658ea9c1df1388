"""Every registered method on the first embedded model at equal final tokens: right answers, agreement with the full model, and compute.

    python benchmarks/every_method.py --minutes 14                # on one core; 5 questions of each kind
    python benchmarks/every_method.py --minutes 60 --rounds 2     # goes on with 5 more of each kind

Every method, budget and round of questions is a part of its own: a stopped run resumes, and a longer one adds rounds to the same figures.
Pictures are encoded once; the vision tower's signals are remembered with their features. Methods act before the layers that are their
defaults, so the same final tokens may cost more or less compute: "equivalent" are visual tokens averaged over the decoder's layers.

The embedded model's training guided some attention heads to the relevant patches, which flatters methods that rank by attention.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Annotated, Any

import torch
import typer
from common import finished, save
from rich.console import Console
from sights import KINDS

import foveate
import foveate.demo
from foveate.chat.asking import mean_tokens_over_layers
from foveate.cli.specs import ALL, every_name, split_specs
from foveate.demo.scenes import VERSION
from foveate.engine.remembered import remembered_features
from foveate.measure.facts import facts
from foveate.measure.scenes import SceneQuestion, balanced, digest, evaluate
from foveate.measure.statistics import wilson

NAME = "every_method"
FULL, BLIND = "all tokens", "no image"
STEP = 5
"""Questions of each kind in a round."""


class EveryMethodRunner:
    """Asks the embedded model rounds of questions under one method after another."""

    def __init__(self, rounds: int, batch_size: int) -> None:
        self.model, self.processor = foveate.demo.load()
        self.batch_size = batch_size
        self.rounds = [rounds_of(balanced(STEP * rounds), number) for number in range(rounds)]

    def run(self, name: str, keep: int, number: int) -> dict[str, Any]:
        """The answers to one round of questions, in order, and visual tokens at the end and over the layers."""
        method = None if name in (FULL, BLIND) else foveate.parse_method(name, keep=keep)
        spent: list[float] = []
        layers = self.model.config.text_config.num_hidden_layers
        with nullcontext() if method is None else foveate.compress(self.model, method) as handle:
            answers = evaluate(
                self.model,
                self.processor,
                self.rounds[number],
                self.batch_size,
                None if handle is None else lambda count: spent.append(handle.report.method_seconds),
                without_image=name == BLIND,
            )
            images = [] if handle is None else handle.report.images
        counts = {image.tokens_after for image in images}
        assert not images or counts == {keep}, f"{name} kept {sorted(counts)} tokens of a budget of {keep}"
        return {
            "given": [answer.given for answer in answers],
            "right": "".join("01"[answer.right] for answer in answers),
            "equivalent": mean_tokens_over_layers(images[0], layers) if images else None,
            "layers": [stage.layer for stage in images[0].stages] if images else [],
            "method_seconds": sum(spent),
        }


def rounds_of(asked: Sequence[SceneQuestion], number: int) -> list[SceneQuestion]:
    """The questions of one round: the same places among the questions of every family, which come in order of family."""
    families = list(dict.fromkeys(sample.question.family for sample in asked))
    by_family = ([sample for sample in asked if sample.question.family == family] for family in families)
    return [sample for own in by_family for sample in own[number * STEP : (number + 1) * STEP]]


def part(name: str, keep: int, number: int) -> str:
    """The name of a finished part."""
    return f"{name}, {keep}, round {number + 1}"


def parts(names: Sequence[str], budgets: Sequence[int], rounds: int) -> Iterator[tuple[str, int, int]]:
    """All parts, in the order in which they are measured: budget after budget, so that a stop leaves whole columns."""
    for number in range(rounds):
        yield from ((FULL, 0, number), (BLIND, 0, number))
        yield from ((name, keep, number) for keep in budgets for name in names)


def figures(done: Any, names: Sequence[str], budgets: Sequence[int], rounds: int, families: Sequence[str]) -> dict[str, Any]:
    """Everything that the tables and the picture show, over rounds of which every part is there.

    Args:
        done: finished parts, by name.
        names: of methods.
        budgets: visual tokens.
        rounds: how many rounds of questions to sum up.
        families: of each question of one round.
    """
    families = [*families] * rounds
    full, blind = (joined(done, name, 0, rounds) for name in (FULL, BLIND))
    found: dict[str, Any] = {}
    for name in names:
        cells = {}
        for keep in budgets:
            own = joined(done, name, keep, rounds)
            scores = scored(own["right"], families)
            same = sum(a == b for a, b in zip(own["given"], full["given"], strict=True))
            low, high = wilson(same, len(families))
            gain = full["right"].count("1") - blind["right"].count("1")
            cells[str(keep)] = {
                "scores": scores,
                "of_full": own["right"].count("1") / full["right"].count("1"),
                "of_image": (own["right"].count("1") - blind["right"].count("1")) / gain,
                "loyalty": {"share": same / len(families), "low": low, "high": high},
                "equivalent": own["equivalent"],
                "layers": own["layers"],
                "right": own["right"],
            }
        found[name] = cells
    return {
        "questions": len(families),
        "families": families,
        "full": {"scores": scored(full["right"], families), "right": full["right"]},
        "no_image": {"scores": scored(blind["right"], families), "right": blind["right"]},
        "methods": found,
    }


def joined(done: Any, name: str, keep: int, rounds: int) -> dict[str, Any]:
    """The rounds of one method and budget as one."""
    own = [done[part(name, keep, number)] for number in range(rounds)]
    return {**own[0], "given": [answer for one in own for answer in one["given"]], "right": "".join(one["right"] for one in own)}


def scored(right: str, families: Sequence[str]) -> dict[str, dict[str, float]]:
    """Shares with intervals of all questions, of each kind and of each family."""
    wanted = {"overall": tuple(families), **KINDS, **{family: (family,) for family in dict.fromkeys(families)}}
    found = {}
    for name, own in wanted.items():
        marks = [mark == "1" for mark, family in zip(right, families, strict=True) if family in own]
        low, high = wilson(sum(marks), len(marks))
        found[name] = {"share": sum(marks) / len(marks), "low": low, "high": high, "n": len(marks)}
    return found


def main(
    minutes: Annotated[float, typer.Option(help="stop before the next part after so long; at least one is measured")] = 14,
    rounds: Annotated[int, typer.Option(help=f"rounds of {STEP} held-out questions of each kind")] = 1,
    budgets: Annotated[str, typer.Option(help="visual tokens to keep of 576, separated by commas")] = "64,32,128,16",
    chosen: Annotated[str, typer.Option("--methods", help="all, or names with options, separated by commas")] = "all",
    batch_size: Annotated[int, typer.Option(help="questions at a time")] = 13,
) -> None:
    """Measure and write benchmarks/results/every_method.json."""
    torch.set_num_threads(1)
    begun, console = time.monotonic(), Console(stderr=True)
    names = [each for spec in split_specs(chosen) for each in (every_name() if spec == ALL else [spec])]
    keeps = [int(keep) for keep in budgets.split(",")]
    runner = EveryMethodRunner(rounds, batch_size)
    weights = hashlib.sha256((foveate.demo.path() / "model.safetensors").read_bytes()).hexdigest()
    done = finished(NAME, {"weights": weights, "scenes": VERSION, "step": STEP, "batch_size": batch_size})
    left = [each for each in parts(names, keeps, rounds) if part(*each) not in done]
    longest = 0.0
    with remembered_features(runner.model):
        for place, each in enumerate(left):
            started = time.monotonic()
            if place and started + longest > begun + 60 * minutes:
                break
            done[part(*each)] = found = runner.run(*each)
            longest = max(longest, time.monotonic() - started)
            share = found["right"].count("1") / len(found["right"])
            console.print(f"{place + 1}/{len(left)} {part(*each)}: {share:.1%}, {time.monotonic() - started:.0f} s", highlight=False)
    whole = [number for number in range(rounds) if all(part(*each) in done for each in parts(names, keeps, number + 1))]
    ready = keeps if whole else [keep for keep in keeps if all(part(*each) in done for each in parts(names, [keep], 1))]
    if not ready:
        raise SystemExit("no budget is finished yet; the same command goes on")
    used = [sample for number in range(len(whole) or 1) for sample in runner.rounds[number]]
    results = figures(done, names, sorted(ready, reverse=True), len(whole) or 1, [sample.question.family for sample in runner.rounds[0]])
    path = save(NAME, {"facts": facts(runner.model), "asked": digest(used), "each": STEP * (len(whole) or 1), "budgets": ready, **results})
    console.print(f"written: {path} ({results['questions']} questions at budgets {ready})")


if __name__ == "__main__":
    typer.run(main)
