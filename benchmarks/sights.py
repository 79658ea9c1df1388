"""What is measured of one picture with the pretrained decoder: where signals point, what sinks do, and which answers survive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import foveate
from foveate import DivPrune, Explainer, FastV, FirstLayerAttention, Method, Oracle, Pool, Random, TokenCarve
from foveate.demo.scenes import Question, scene
from foveate.demo.scenes.drawing import COLOURS, SHAPES
from foveate.measure.analysis.controls import Norm
from foveate.measure.analysis.one_picture import AskedAbout, OnePicture
from foveate.measure.analysis.spectrum import information
from foveate.measure.scenes import SceneQuestion, prompt_of
from foveate.methods import information_contribution

SIDE = 12
TOKENS = SIDE * SIDE
BUDGETS = (72, 36, 18)
SWEPT = (1, 2, 4, 8, 12, 16, 20)
"""Layers before which TokenCarve and FastV keep a quarter of the tokens."""
SWEPT_BESIDE = (2, 8, 16)
"""Those for methods that hardly depend on the layer."""
CUT, QUARTER = 2, 36
SHARES = {"quarter": TOKENS // 4, "half": TOKENS // 2}
KINDS = {
    "object": ("colour", "shape", "size", "count", "presence", "comparison"),
    "reading": ("word", "number", "digit"),
    "position": ("side", "relation"),
}
SEEDS = (0, 1)
SET_APART = (1, 4)


@dataclass(frozen=True)
class Sight:
    """A held-out picture, and the questions about it that have a short answer."""

    seed: int
    asked: tuple[SceneQuestion, ...]

    @property
    def relevant(self) -> Tensor:
        """(questions, tokens) booleans."""
        return torch.stack([torch.from_numpy(sample.question.relevant).flatten() for sample in self.asked])

    def texts(self) -> list[AskedAbout]:
        """The questions with the answers that the decoder was taught."""
        return [AskedAbout(sample.question.text, spelled(sample.question)) for sample in self.asked]


def sight(seed: int) -> Sight:
    """Draw one."""
    drawn = scene(seed, "held_out", SIDE)
    return Sight(seed, tuple(SceneQuestion(seed, drawn.image, each) for each in drawn.questions if each.family != "description"))


def spelled(question: Question) -> str:
    """The answer, in single letters if it was read from a sign; digits are single tokens anyway."""
    read = question.family in ("word", "hop") and question.answer not in (*COLOURS, *SHAPES) and not question.answer.isdigit()
    return " ".join(question.answer) if read else question.answer


def kind_of(family: str) -> str:
    """The kind of a family of questions; questions of two hops are of none."""
    return next((kind for kind, families in KINDS.items() if family in families), "")


def found(scores: Tensor, relevant: Tensor) -> dict[str, list[Any]]:
    """The share of the relevant tokens (n,) among the highest of scores (..., n), for each of `SHARES`."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    hits = relevant[order].float()
    return {name: (hits[..., :keep].sum(-1) / relevant.sum()).tolist() for name, keep in SHARES.items()}


def recalls(one: OnePicture, relevant: Tensor) -> list[dict[str, Any] | None]:
    """Of each question what attention, its heads, information and norm find by layer; none where nothing is relevant."""
    visual = one.columns[:, -one.visual :]
    informed = torch.stack([information_contribution(states) for states in visual])
    attention = one.attention[..., -one.visual :]
    results: list[dict[str, Any] | None] = []
    for number, own in enumerate(relevant):
        signals = {"attention": attention[:, number].mean(1), "information": informed, "norm": visual.norm(dim=-1)}
        heads = found(attention[:, number], own) if own.any() else {}
        results.append({**{name: found(scores, own) for name, scores in signals.items()}, "heads": heads["quarter"]} if heads else None)
    return results


def sinks(one: OnePicture) -> list[dict[str, float]]:
    """Of each layer how norms and attention are spread over columns, and what the longest visual tokens do to score and cosines."""
    rows = []
    for layer, columns in enumerate(one.columns):
        norms, visual = columns.norm(dim=-1), columns[-one.visual :]
        own = norms[-one.visual :]
        attention = one.attention[layer].mean((0, 1))
        row = {
            "first": float(norms[0] / own.median()),
            "other_text": float(norms[1 : -one.visual].max() / own.median()),
            "largest": float(own.max() / own.median()),
            "attention_first": float(attention[0]),
            "attention_visual": float(attention[-one.visual :].sum()),
        }
        rows.append(row | _scored(visual, own) | _cosines(visual))
    return rows


def _scored(visual: Tensor, norms: Tensor) -> dict[str, float]:
    """How the information score depends on norms: its spread, and how it ranks the rest without the longest tokens."""
    scores = information_contribution(visual)
    row = {"score_largest": float(scores.max() / scores.median()), "score_norm": rank_correlation(scores, norms)}
    order = norms.argsort(descending=True)
    for count in SET_APART:
        rest = order[count:].sort().values
        alone = information_contribution(visual[rest])
        row[f"score_without_{count}"] = rank_correlation(scores[rest], alone)
        best = (each.topk(QUARTER).indices for each in (scores[rest], alone))
        row[f"same_without_{count}"] = _overlap(*best)
    guarded = information_contribution(visual / norms[:, None])
    row["score_directions"] = rank_correlation(scores, guarded)
    return row


def _cosines(visual: Tensor) -> dict[str, float]:
    """How alike visual tokens are, and how many keep their most similar token without the channel that has most of the energy."""
    energy = visual.square().sum(0)
    channel = int(energy.argmax())
    without = visual.clone()
    without[:, channel] = 0
    nearest, likeness = zip(*(_nearest(states) for states in (visual, without)), strict=True)
    return {
        "channel": float(energy[channel] / energy.sum()),
        "cosine": likeness[0],
        "cosine_without": likeness[1],
        "same_nearest": float((nearest[0] == nearest[1]).float().mean()),
    }


def _nearest(states: Tensor) -> tuple[Tensor, float]:
    units = torch.nn.functional.normalize(states.double(), dim=-1)
    cosines = units @ units.T
    mean = (cosines.sum() - len(cosines)) / (len(cosines) * (len(cosines) - 1))
    return cosines.fill_diagonal_(-2).argmax(1), float(mean)


def rank_correlation(one: Tensor, other: Tensor) -> float:
    """Spearman's correlation of two scores without ties."""
    ranks = torch.stack([each.argsort().argsort().double() for each in (one, other)])
    return float(torch.corrcoef(ranks)[0, 1])


def _overlap(one: Tensor, other: Tensor) -> float:
    return float(torch.isin(one, other).float().mean())


def ways(compressor: str | None) -> Iterator[Method]:
    """Every method at every layer and budget, but for the oracle."""
    for layer in SWEPT:
        yield from (TokenCarve(QUARTER, layer), FastV(QUARTER, layer))
    for layer in SWEPT_BESIDE:
        yield from (Pool(QUARTER, layer), Random(QUARTER, layer))
    for keep in BUDGETS:
        if keep != QUARTER:
            yield from (TokenCarve(keep, CUT), FastV(keep, CUT), Pool(keep, CUT), Random(keep, CUT))
        yield from (Norm(keep, CUT), *(Random(keep, CUT, seed=seed) for seed in SEEDS[1:]))
        yield from (DivPrune(keep), FirstLayerAttention(keep))
        if compressor is not None:
            yield Explainer(keep, compressor=compressor)


def key(method: Method) -> str:
    """The name of a method at its layer and budget: "TokenCarve 2 36"."""
    seed = getattr(method, "seed", 0)
    return f"{type(method).__name__} {method.layer} {method.keep}" + (f" {seed}" if seed else "")


def survive(one: OnePicture, asked: Sequence[SceneQuestion], method: Method) -> dict[str, Any]:
    """Which answers are right with what a method keeps, and before layer `CUT` the information in it."""
    # One fingerprint for all questions, so that a random choice is drawn once for each picture and its tokens run once.
    views = [one.view(method.layer, number, fingerprint=asked[0].seed) for number in range(len(asked))]
    right, states = one.ask(method.layer, method.plans(views))
    if method.layer != CUT:
        return {"right": marks(right)}
    measured = [[information(rows) for rows in pair] for pair in states]
    return {"right": marks(right), "hidden_states": [pair[0] for pair in measured], "attention_output": [pair[1] for pair in measured]}


def marks(right: Sequence[bool]) -> str:
    """Right answers as ones."""
    return "".join("01"[mark] for mark in right)


def measured(model: Any, processor: Any, shown: Sight, compressor: str | None) -> dict[str, Any]:
    """Everything about one picture that needs no backward pass."""
    one = OnePicture(model, processor, shown.asked[0].image, shown.texts())
    visual, outputs = one.columns[CUT, -one.visual :], one.attention_outputs[CUT]
    full = {"hidden_states": [information(visual)] * len(shown.asked), "attention_output": [information(outputs)] * len(shown.asked)}
    return {
        "families": [sample.question.family for sample in shown.asked],
        "full": {"right": marks(one.right), **full},
        "blind": marks(one.ask_blind()),
        "recall": recalls(one, shown.relevant),
        "sinks": sinks(one),
        "cells": {key(method): survive(one, shown.asked, method) for method in ways(compressor)},
    }


def explained(model: Any, processor: Any, shown: Sight) -> dict[str, Any]:
    """What the right answers rest on, how much of the relevant it finds, and which answers the oracle keeps."""
    answers = [processor.tokenizer(text.answer, add_special_tokens=False)["input_ids"] for text in shown.texts()]
    known: list[Tensor] = [torch.empty(0)] * len(answers)
    for length in sorted(set(map(len, answers))):
        # Rows share one walk for each token of an answer.
        rows = [row for row, answer in enumerate(answers) if len(answer) == length]
        texts = [prompt_of(processor, shown.asked[row].question.text) for row in rows]
        inputs = processor(images=[shown.asked[row].image for row in rows], text=texts, padding=True, return_tensors="pt")
        for image in foveate.relevance(model, inputs, [answers[row] for row in rows]).images:
            known[rows[image.row]] = image.mean
    one = OnePicture(model, processor, shown.asked[0].image, shown.texts())
    oracles = [Oracle(keep, relevance=known) for keep in BUDGETS]
    recall = [found(scores, own) if own.any() else None for scores, own in zip(known, shown.relevant, strict=True)]
    return {"recall": recall, "cells": {key(method): survive(one, shown.asked, method) for method in oracles}}
