"""From samples to labels with one model: it answers, and where it is right its answer is explained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foveate.chat.greedy import generate_greedily
from foveate.compression import compress
from foveate.engine.remembered import remembered_features
from foveate.errors import FoveateError, InputError
from foveate.explain.labels.batches import alike, in_batches, joined
from foveate.explain.labels.label_files import LabelRow
from foveate.explain.labels.matching import Match, matches
from foveate.explain.labels.recorder import Recorder
from foveate.explain.labels.samples import Sample, Source
from foveate.explain.relevance.relevance import relevance
from foveate.explain.relevance.result import ImageRelevance, Target
from foveate.explain.relevance.sequences import answers_of
from foveate.families import family_of
from foveate.view import View

__all__ = ["Choice", "Labeller", "Verdict"]


@dataclass(frozen=True)
class Choice:
    """How labels are made.

    Attributes:
        keep_all: keep samples that the model answers wrong, too.
        match: how an answer is compared with the references.
        states: store the visual tokens' states at the language model's input.
        gradients: weight attention by its gradient.
        target: what relevance is the relevance of.
        max_new_tokens: longest answer.
        batch: how many samples run together.
    """

    keep_all: bool = False
    match: Match = "exact"
    states: bool = False
    gradients: bool = True
    target: Target = "logit"
    max_new_tokens: int = 64
    batch: int = 1


@dataclass(frozen=True)
class Verdict:
    """What became of a sample: it has `rows`, or there is a `reason` why it was skipped, or neither, because the answer is wrong."""

    sample: str
    rows: tuple[LabelRow, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class _Asked:
    name: str
    sample: Sample
    inputs: Mapping[str, Any]


class Labeller:
    """Labels samples with one model, which is left as it was.

    Args:
        model: a loaded model of a known family.
        processor: its processor.
        prompt: the inputs of a sample, one row on the model's device; raises `InputError` for a sample that cannot be asked.
        choice: how.
    """

    def __init__(self, model: Any, processor: Any, prompt: Callable[[Sample], Mapping[str, Any]], choice: Choice) -> None:
        self._model, self._prompt, self.choice = model, prompt, choice
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._placeholders = torch.tensor(list(family_of(model).placeholders(model).values()))
        ends = model.generation_config.eos_token_id
        self._ends: list[int] = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self._pad = next((int(token) for token in (self._tokenizer.pad_token_id, *self._ends) if token is not None), 0)

    def label(self, source: Source, indices: Sequence[int]) -> Iterator[list[Verdict]]:
        """Label samples by their numbers, batch by batch. No sample is fatal: whatever one raises is its reason.

        A picture that several samples in a row are about is encoded once.
        """
        with remembered_features(self._model, most=self.choice.batch + 1):
            for batch in in_batches(self._read(source, indices), self.choice.batch):
                asked = [one for one in batch if isinstance(one, _Asked)]
                yield [one for one in batch if isinstance(one, Verdict)] + (self._label(asked) if asked else [])

    def _read(self, source: Source, indices: Sequence[int]) -> Iterator[tuple[Any, _Asked | Verdict]]:
        for index in indices:
            name = source.name(index)
            try:
                sample = source.read(index)
                inputs = self._prompt(sample)
                self._check_order(sample.question, inputs["input_ids"][0].cpu())
            except Exception as error:  # decoders and processors raise anything on damaged data
                yield None, Verdict(name, reason=_reason(error))
            else:
                yield alike(inputs), _Asked(name, sample, inputs)

    def _check_order(self, question: str, ids: Tensor) -> None:
        """Refuse a prompt whose question is not behind the image: nothing there attends to the image for its sake."""
        visual = torch.isin(ids, self._placeholders).nonzero()
        behind = ids[int(visual[-1]) + 1 :] if len(visual) else ids
        wanted = self._plain(self._tokenizer(question, add_special_tokens=False)["input_ids"])
        if wanted not in self._plain(behind):
            raise InputError(
                "the question stands before the image in this model's prompt, so its attention to the image is empty; use a chat template "
                "that puts the question behind the image"
            )

    def _plain(self, ids: Any) -> str:
        return "".join(self._tokenizer.decode(ids, skip_special_tokens=True).split()).casefold()

    def _label(self, asked: Sequence[_Asked]) -> list[Verdict]:
        try:
            return self._verdicts(asked)
        except Exception as error:  # of one sample out of several: which one, only asking them alone tells
            if len(asked) > 1:
                return [verdict for one in asked for verdict in self._label([one])]
            return [Verdict(asked[0].name, reason=_reason(error))]

    def _verdicts(self, asked: Sequence[_Asked]) -> list[Verdict]:
        answers, views = self._answer(joined([one.inputs for one in asked], self._pad))
        texts = [self._tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]
        correct = [self._is_correct(text, one.sample) for text, one in zip(texts, asked, strict=True)]
        kept = [row for row, right in enumerate(correct) if len(answers[row]) and (right is not False or self.choice.keep_all)]
        images = self._explain([asked[row] for row in kept], [answers[row] for row in kept])
        verdicts = []
        for row, one in enumerate(asked):
            if not len(answers[row]):
                verdicts.append(Verdict(one.name, reason="the model gave no answer: it ended at once"))
            elif row not in kept:
                verdicts.append(Verdict(one.name))
            else:
                found = zip(images[kept.index(row)], views[row], strict=True)
                rows = [self._row(one, texts[row], correct[row], image, view) for image, view in found]
                verdicts.append(Verdict(one.name, tuple(rows)))
        return verdicts

    def _answer(self, inputs: dict[str, Any]) -> tuple[tuple[Tensor, ...], list[list[View]]]:
        """The model's greedy answers, and what there was to see at the language model's input, per row and image."""
        recorder = Recorder()
        with compress(self._model, recorder) as handle, torch.no_grad():
            output = generate_greedily(self._model, inputs, self.choice.max_new_tokens, self._pad)
            images = handle.report.images
        if len(images) != len(recorder.views):
            raise InputError("two rows of the batch are the same sample, and only one of them was looked at")
        views: list[list[View]] = [[] for _ in inputs["input_ids"]]
        for image, view in zip(images, recorder.views, strict=True):
            views[image.row].append(view)
        return answers_of(output[:, inputs["input_ids"].shape[1] :], self._ends), views

    def _is_correct(self, text: str, sample: Sample) -> bool | None:
        return matches(text, sample.references, self.choice.match) if sample.references else None

    def _explain(self, asked: Sequence[_Asked], answers: Sequence[Tensor]) -> list[list[ImageRelevance]]:
        """The relevance of each row's images. Rows share a walk for each answer token, so only answers of one length go together."""
        found: list[list[ImageRelevance]] = [[] for _ in asked]
        for length in sorted({len(answer) for answer in answers}):
            rows = [row for row, answer in enumerate(answers) if len(answer) == length]
            inputs = joined([asked[row].inputs for row in rows], self._pad)
            own = [answers[row] for row in rows]
            explained = relevance(self._model, inputs, own, target=self.choice.target, gradients=self.choice.gradients)
            for image in explained.images:
                found[rows[image.row]].append(image)
        return found

    def _row(self, asked: _Asked, answer: str, correct: bool | None, image: ImageRelevance, view: View) -> LabelRow:
        assert view.head_attention is not None
        mean = image.mean.numpy()
        if not np.isfinite(mean).all() or not mean.any():
            raise InputError("the relevance is not a number" if not np.isfinite(mean).all() else "the relevance is zero everywhere")
        return LabelRow(
            id=f"{asked.name}/{image.position}",
            question=asked.sample.question,
            answer=answer,
            reference=" | ".join(asked.sample.references) or None,
            kind=image.kind,
            grid=image.grid,
            parts=image.parts,
            relevance=mean,
            attention=_half(view.head_attention, "attention"),
            answer_tokens=len(image.tokens),
            correct=correct,
            states=_half(view.states, "states") if self.choice.states else None,
        )


def _half(values: Tensor, what: str) -> NDArray[np.float16]:
    half: NDArray[np.float16] = values.detach().to(torch.float16).cpu().numpy()
    if not np.isfinite(half).all():
        raise InputError(f"the {what} of the visual tokens are not finite in float16")
    return half


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, FoveateError) and text else f"{type(error).__name__}: {text}"
