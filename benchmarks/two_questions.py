"""The cost, to a second question about the same image, of a choice of visual tokens made for the first, on held-out scenes.

Each scene is asked two questions about different things. The second is answered

* with a fresh prefill: its own choice of tokens;
* on the first question's choice: the same tokens, kept and merged in the same way. An image comes before its question, so its
  keys and values do not depend on the question: this is the image's part of the first question's cache, reused;
* in a second turn: after the first question and its answer, on their compressed cache.

All are compared with the full model, in one turn and in two. The embedded model was trained on one question at a time, so second
turns are unusual for it; compare them with the full model's second turns only.
"""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import typer
from common import progress_bar, save
from rich.console import Console
from rich.table import Table

import foveate
import foveate.demo
from foveate import FastV, Method, Plan, Pool, Random, TokenCarve, View
from foveate.demo import Question
from foveate.demo.scenes import Scene, scene
from foveate.engine.remembered import remembered_features
from foveate.measure.facts import facts
from foveate.measure.statistics import mcnemar, wilson

METHODS: dict[str, type[Method]] = {"TokenCarve": TokenCarve, "FastV": FastV, "Random": Random, "Pool": Pool}
FRESH, REUSED, SECOND_TURN = "fresh prefill", "on the first question's choice", "second turn"
NEW_TOKENS = 16


@dataclass(frozen=True)
class FixedPlans(Method):
    """Returns given plans, one for each row of a batch, in order."""

    made: list[Plan] = field(default_factory=list)

    def plans(self, views: list[View]) -> list[Plan]:
        """The given plans, one for each view."""
        if len(views) != len(self.made):
            raise ValueError(f"{len(self.made)} plans for {len(views)} images")
        return self.made


@dataclass(frozen=True)
class QuestionPair:
    """Two questions about different things in one scene."""

    shown: Scene
    first: Question
    second: Question


def pairs(count: int) -> list[QuestionPair]:
    """One pair for each of the first held-out scenes that has two questions with a short answer and no relevant patch in common."""
    found: list[QuestionPair] = []
    seed = 0
    while len(found) < count:
        shown = scene(seed, "held_out")
        rng = np.random.default_rng((2, seed))
        asked = [question for question in shown.questions if question.family != "description" and question.relevant.any()]
        apart = [(a, b) for a in asked for b in asked if not (a.relevant & b.relevant).any()]
        if apart:
            found.append(QuestionPair(shown, *apart[int(rng.integers(len(apart)))]))
        seed += 1
    return found


class TwoQuestionRunner:
    """Asks the embedded model pairs of questions under one method after another."""

    def __init__(self, asked: list[QuestionPair], batch_size: int) -> None:
        self.model, self.processor = foveate.demo.load()
        self.asked, self.batch_size = asked, batch_size

    def run(self, method: Method | None) -> dict[str, str]:
        """For each way of asking the second question, which answers were right, in order, as digits."""
        right: dict[str, list[bool]] = {FRESH: [], REUSED: [], SECOND_TURN: []}
        for start in range(0, len(self.asked), self.batch_size):
            batch = self.asked[start : start + self.batch_size]
            plans = self._plans(batch, method)
            right[FRESH] += self._second(batch, method)
            right[REUSED] += self._second(batch, None if method is None else FixedPlans(keep=1, layer=method.layer, made=plans))
            right[SECOND_TURN] += [self._second_turn(pair, method) for pair in batch]
        return {way: "".join("01"[answer] for answer in answers) for way, answers in right.items()}

    def _plans(self, batch: list[QuestionPair], method: Method | None) -> list[Plan]:
        """What the method chooses for the first questions."""
        if method is None:
            return []
        with torch.inference_mode(), foveate.compress(self.model, method) as handle:
            self.model(**self._inputs(batch, [pair.first for pair in batch]), logits_to_keep=1)
            return [image.plan for image in handle.report.images]

    @torch.inference_mode()
    def _second(self, batch: list[QuestionPair], method: Method | None) -> list[bool]:
        inputs = self._inputs(batch, [pair.second for pair in batch])
        with nullcontext() if method is None else foveate.compress(self.model, method):
            output = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        said = self.processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [answer.strip() == pair.second.answer for answer, pair in zip(said, batch, strict=True)]

    @torch.inference_mode()
    def _second_turn(self, pair: QuestionPair, method: Method | None) -> bool:
        inputs = self._inputs([pair], [pair.first])
        options = {"max_new_tokens": NEW_TOKENS, "do_sample": False}
        with nullcontext() if method is None else foveate.compress(self.model, method):
            first = self.model.generate(**inputs, **options, return_dict_in_generate=True)
            turn = f"USER: {pair.second.text} ASSISTANT:"
            new = self.processor.tokenizer(turn, add_special_tokens=False, return_tensors="pt")["input_ids"]
            ids = torch.cat([first.sequences, new], dim=1)
            output = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=first.past_key_values, **options
            )
        return bool(self.processor.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip() == pair.second.answer)

    def _inputs(self, batch: list[QuestionPair], questions: list[Question]) -> Any:
        texts = [foveate.demo.prompt(question.text) for question in questions]
        return self.processor(images=[pair.shown.image for pair in batch], text=texts, padding=True, return_tensors="pt")


def figures(right: dict[str, str]) -> dict[str, Any]:
    """Shares with their 95 % intervals, and how the two other ways differ from the fresh prefill on the same questions."""
    found: dict[str, Any] = {}
    for way, answers in right.items():
        low, high = wilson(answers.count("1"), len(answers))
        lost = sum(a > b for a, b in zip(right[FRESH], answers, strict=True))
        won = sum(a < b for a, b in zip(right[FRESH], answers, strict=True))
        found[way] = {"share": answers.count("1") / len(answers), "low": low, "high": high, "lost": lost, "won": won}
        found[way] |= {"mcnemar_p": mcnemar(lost, won), "right": answers}
    return found


def digest(asked: list[QuestionPair]) -> str:
    """SHA-256 over the questions and answers."""
    rows = (f"{pair.first.text}|{pair.second.text}|{pair.second.answer}\n" for pair in asked)
    return hashlib.sha256("".join(rows).encode()).hexdigest()


def main(scenes: int = 100, batch_size: int = 10, budgets: str = "128,64,32", methods: str = ",".join(METHODS)) -> None:
    """Measure and write benchmarks/results/two_questions.json.

    Args:
        scenes: held-out scenes, with two questions each.
        batch_size: scenes at a time.
        budgets: visual tokens to keep, separated by commas.
        methods: names, separated by commas.
    """
    keeps, names = [int(keep) for keep in budgets.split(",")], methods.split(",")
    runner = TwoQuestionRunner(pairs(scenes), batch_size)
    wanted: list[tuple[str, int]] = [(name, keep) for name in names for keep in keeps]
    results: dict[str, Any] = {"facts": facts(runner.model), "scenes": scenes, "questions": digest(runner.asked), "budgets": keeps}
    results |= {"families": [pair.second.family for pair in runner.asked], "methods": {name: {} for name in names}}
    with progress_bar() as progress, remembered_features(runner.model):
        task = progress.add_task("methods and budgets", total=len(wanted) + 1)
        results["full"] = figures(runner.run(None))
        for name, keep in wanted:
            progress.advance(task)
            results["methods"][name][str(keep)] = figures(runner.run(METHODS[name](keep=keep)))
    save("two_questions", results)
    view = Table("", "keep", FRESH, REUSED, SECOND_TURN, title=f"the second of two questions, {scenes} scenes")
    for name, keep, cells in [("full", 576, results["full"]), *((n, k, results["methods"][n][str(k)]) for n, k in wanted)]:
        view.add_row(name, str(keep), *(f"{cells[way]['share']:.1%} (-{cells[way]['lost']} +{cells[way]['won']})" for way in cells))
    Console().print(view)


if __name__ == "__main__":
    typer.run(main)
