"""Does a method that keeps more information keep more accuracy? Both are measured on the same questions about held-out scenes.

This is the founding claim of TokenCarve (https://arxiv.org/abs/2503.10501): accuracy falls because the rank of the kept tokens falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from foveate.chat.processors import check_tokens, make_inputs
from foveate.compression import compress
from foveate.demo.model.language import UNKNOWN
from foveate.demo.scenes import FAMILIES
from foveate.demo.scenes.labels import GRID
from foveate.engine.remembered import remembered_features
from foveate.errors import BudgetError, InputError
from foveate.families import family_of
from foveate.measure.analysis.controls import Norm
from foveate.measure.analysis.kept_states import KeptStates
from foveate.measure.analysis.spectrum import information
from foveate.measure.result_forms import ANALYSED_CELL
from foveate.measure.scenes import SceneQuestion, balanced, evaluate, prompt_of
from foveate.measure.store import ResultStore
from foveate.method import Method
from foveate.methods import Random, find_method, methods

__all__ = ["FULL", "AnalysisCell", "AnalysisFolder", "cells_of", "key", "measure_all", "measure_cell", "questions", "visual_tokens"]

FULL = "full"
"""The name of the cell in which every visual token stays."""

_DIGITS = 6
_SPREAD = 4


def key(source: str, layer: int, measure: str) -> str:
    """The name in results of one measure of one source at one layer: "hidden_states 2 effective_rank"."""
    return f"{source} {layer} {measure}"


@dataclass(frozen=True)
class AnalysisCell:
    """One way of choosing tokens at one budget.

    Attributes:
        method: as `foveate methods` lists it, "norm" for the control, or `FULL`.
        keep: number of kept visual tokens.
        seed: of the random choice; `None` for methods without one.
    """

    method: str
    keep: int
    seed: int | None = None

    @property
    def name(self) -> str:
        """Unique among cells, and usable as a file name."""
        return "-".join(str(part) for part in (self.method, self.keep, self.seed) if part is not None)

    def build(self, layer: int) -> Method | None:
        """The method that acts before decoder layer `layer`; `None` for the full model."""
        if self.method == FULL:
            return None
        if self.method == Norm.name:
            return Norm(self.keep, layer)
        found = find_method(self.method)
        return found(self.keep, layer) if self.seed is None else Random(self.keep, layer, seed=self.seed)


def cells_of(names: Sequence[str], budgets: Sequence[int], seeds: int, tokens: int) -> list[AnalysisCell]:
    """Every method at every budget, random choices once per seed, and the full model once.

    Args:
        names: methods by name, "norm" among them.
        budgets: visual tokens to keep; `tokens` itself is the full model.
        seeds: number of draws of random choices.
        tokens: visual tokens of an image.

    Raises:
        UnknownNameError: a method does not exist.
        BudgetError: a budget is below 1 or above `tokens`.
        InputError: there is nothing to compare.
    """
    known = [Norm.name if name.strip().lower() == Norm.name else find_method(name).name for name in names]
    for keep in budgets:
        if not 1 <= keep <= tokens:
            raise BudgetError(f"keep={keep} must lie between 1 and the {tokens} visual tokens of an image of this model")
    kept = sorted({keep for keep in budgets if keep < tokens}, reverse=True)
    chosen = list(dict.fromkeys(known))
    if len(chosen) < 2 or not kept:
        raise InputError(
            f"{len(chosen)} methods at {len(kept)} budgets below {tokens} tokens: name at least two methods and one such budget, "
            f"because methods are compared at equal budgets; known methods are {', '.join([*methods(), Norm.name])}"
        )
    if seeds < 1:
        raise InputError(f"seeds={seeds} must be at least 1")
    found = [AnalysisCell(FULL, tokens)]
    for keep in kept:
        for name in chosen:
            draws = range(seeds) if name == Random.name else (None,)
            found += [AnalysisCell(name, keep, seed) for seed in draws]
    return found


def questions(count: int, side: int = GRID) -> list[SceneQuestion]:
    """A number of held-out questions, spread evenly over families and over many scenes, which have `side` patches per side.

    Raises:
        InputError: fewer than two, which give no interval.
    """
    if count < 2:
        raise InputError(f"samples={count}: at least 2 questions are needed for an interval")
    each = -(-count // len(FAMILIES))
    drawn = balanced(each * _SPREAD, side=side)
    found = []
    for place in range(len(FAMILIES)):
        # Neighbouring families take other scenes, because questions about one scene are not independent.
        family = drawn[place * each * _SPREAD : (place + 1) * each * _SPREAD]
        found.append(family[place % _SPREAD :: _SPREAD][: each - (place >= count - (each - 1) * len(FAMILIES))])
    return [sample for family in found for sample in family]


def visual_tokens(model: Any, processor: Any, sample: SceneQuestion) -> int:
    """Number of visual tokens of a question's image.

    Raises:
        InputError: the model's tokenizer lacks words of the question, so the model is not of the embedded model's kind.
        ProcessorError: the processor fails, or belongs to another model.
    """
    inputs = make_inputs(processor, [prompt_of(processor, sample.question.text)], images=[sample.image])
    ids = inputs["input_ids"][0]
    unknown = processor.tokenizer.unk_token_id
    if unknown is not None and bool((ids == unknown).any()):
        raise InputError(
            f"this model's tokenizer reads words of {sample.question.text!r} as {UNKNOWN}; the questions are about the embedded model's "
            "scenes, so use the model demo, or a folder that foveate demo train wrote"
        )
    placeholders = list(family_of(model).placeholders(model).values())
    check_tokens(model, processor, ids, placeholders)
    return int(torch.isin(ids, torch.tensor(placeholders)).sum())


def measure_cell(
    model: Any,
    processor: Any,
    asked: Sequence[SceneQuestion],
    method: Method | None,
    layers: Sequence[int],
    batch_size: int = 16,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Ask every question once, and measure the kept tokens during the very prefill that leads to the answer.

    Args:
        model: a model of the embedded model's kind.
        processor: its processor.
        asked: the questions.
        method: chooses the tokens; `None` for the full model.
        layers: decoder layers to measure at.
        batch_size: questions at a time.
        progress: called with the number of questions just answered.

    Returns:
        "right", a string of 0 and 1; "tokens", the mean number of kept tokens; and "information", by `key`, a list with one figure per
        question.
    """
    right, kept, found = "", 0, dict[str, list[float]]()
    with ExitStack() as stack:
        handle = stack.enter_context(compress(model, method)) if method is not None else None
        states = stack.enter_context(KeptStates(model, layers))
        for start in range(0, len(asked), batch_size):
            batch = asked[start : start + batch_size]
            answers = evaluate(model, processor, batch, batch_size)
            right += "".join("01"[answer.right] for answer in answers)
            for _, source, layer, rows in states.read(handle.report if handle is not None else None):
                kept += len(rows)
                for measure, value in information(rows).items():
                    found.setdefault(key(source, layer, measure), []).append(round(value, _DIGITS))
            progress(len(batch))
    matrices = len(asked) * len(layers) * 2
    return {"right": right, "tokens": kept / matrices, "information": found}


class AnalysisFolder(ResultStore):
    """The results of cells, one file each, in a folder that this process already holds; a stopped run resumes from them.

    Args:
        folder: created if it does not exist.
        settings: what the results depend on.

    Raises:
        InputError: the folder holds results of other settings, or something else.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings, ANALYSED_CELL)
        self.begin()


def measure_all(
    model: Any,
    processor: Any,
    asked: Sequence[SceneQuestion],
    wanted: Sequence[AnalysisCell],
    done: AnalysisFolder,
    *,
    cut: int,
    layers: Sequence[int],
    batch_size: int,
    progress: Callable[[int], object],
) -> Iterator[AnalysisCell]:
    """Measure the unfinished cells one after the other, saving each as soon as it is finished."""
    with remembered_features(model):
        for cell in wanted:
            if cell.name not in done:
                done[cell.name] = measure_cell(model, processor, asked, cell.build(cut), layers, batch_size, progress)
            yield cell
