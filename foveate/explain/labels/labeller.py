"""Turn samples into labels with one model: it answers, and each correct answer is explained."""

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
from foveate.explain.labels.samples import LabelSample, SampleSource
from foveate.explain.relevance.relevance import relevance
from foveate.explain.relevance.result import ImageRelevance, Target
from foveate.explain.relevance.sequences import answers_of
from foveate.families import family_of
from foveate.view import View

__all__ = ["LabellingOptions", "Labeller", "SampleResult"]


@dataclass(frozen=True)
class LabellingOptions:
    """How labels are made.

    Attributes:
        keep_all: also keep samples that the model answers wrong.
        match: how an answer is compared with the references.
        states: store the visual tokens' states at the language model's input.
        gradients: weight attention by its gradient.
        target: the quantity that relevance explains.
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
class SampleResult:
    """The result for one sample: its `rows`, or the `reason` why it was skipped, or neither if the answer is wrong."""

    sample: str
    rows: tuple[LabelRow, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class _PreparedSample:
    name: str
    sample: LabelSample
    inputs: Mapping[str, Any]


class Labeller:
    """Labels samples with one model, which is left unchanged.

    Args:
        model: a loaded model of a known family.
        processor: its processor.
        prompt: makes the inputs of a sample, one row on the model's device; raises `InputError` for a sample that cannot be asked.
        choice: how labels are made.
    """

    def __init__(self, model: Any, processor: Any, prompt: Callable[[LabelSample], Mapping[str, Any]], choice: LabellingOptions) -> None:
        self._model, self._prompt, self.choice = model, prompt, choice
        self._tokenizer = getattr(processor, "tokenizer", processor)
        self._placeholders = torch.tensor(list(family_of(model).placeholders(model).values()))
        ends = model.generation_config.eos_token_id
        self._ends: list[int] = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self._pad = next((int(token) for token in (self._tokenizer.pad_token_id, *self._ends) if token is not None), 0)

    def label(self, source: SampleSource, indices: Sequence[int]) -> Iterator[list[SampleResult]]:
        """Label samples by index, batch by batch. No sample is fatal: whatever it raises becomes its reason.

        A picture that several consecutive samples share is encoded once.
        """
        with remembered_features(self._model, most=self.choice.batch + 1):
            for batch in in_batches(self._read(source, indices), self.choice.batch):
                asked = [one for one in batch if isinstance(one, _PreparedSample)]
                yield [one for one in batch if isinstance(one, SampleResult)] + (self._label(asked) if asked else [])

    def _read(self, source: SampleSource, indices: Sequence[int]) -> Iterator[tuple[Any, _PreparedSample | SampleResult]]:
        for index in indices:
            name = source.name(index)
            try:
                sample = source.read(index)
                inputs = self._prompt(sample)
                self._check_order(sample.question, inputs["input_ids"][0].cpu())
            except Exception as error:  # damaged data makes decoders and processors raise anything
                yield None, SampleResult(name, reason=_reason(error))
            else:
                yield alike(inputs), _PreparedSample(name, sample, inputs)

    def _check_order(self, question: str, ids: Tensor) -> None:
        """Refuse a prompt whose question does not follow the image: the question's tokens could not attend to the image then."""
        visual = torch.isin(ids, self._placeholders).nonzero()
        following = ids[int(visual[-1]) + 1 :] if len(visual) else ids
        wanted = self._plain(self._tokenizer(question, add_special_tokens=False)["input_ids"])
        if wanted not in self._plain(following):
            raise InputError(
                "the question precedes the image in this model's prompt, so it cannot attend to the image; use a chat template "
                "that puts the question after the image"
            )

    def _plain(self, ids: Any) -> str:
        return "".join(self._tokenizer.decode(ids, skip_special_tokens=True).split()).casefold()

    def _label(self, asked: Sequence[_PreparedSample]) -> list[SampleResult]:
        try:
            return self._results(asked)
        except Exception as error:  # raised by one sample of several: only asking each alone shows which
            if len(asked) > 1:
                return [result for one in asked for result in self._label([one])]
            return [SampleResult(asked[0].name, reason=_reason(error))]

    def _results(self, asked: Sequence[_PreparedSample]) -> list[SampleResult]:
        answers, views = self._answer(joined([one.inputs for one in asked], self._pad))
        texts = [self._tokenizer.decode(answer, skip_special_tokens=True).strip() for answer in answers]
        correct = [self._is_correct(text, one.sample) for text, one in zip(texts, asked, strict=True)]
        kept = [row for row, right in enumerate(correct) if len(answers[row]) and (right is not False or self.choice.keep_all)]
        images = self._explain([asked[row] for row in kept], [answers[row] for row in kept])
        results = []
        for row, one in enumerate(asked):
            if not len(answers[row]):
                results.append(SampleResult(one.name, reason="the model gave no answer: it ended at once"))
            elif row not in kept:
                results.append(SampleResult(one.name))
            else:
                found = zip(images[kept.index(row)], views[row], strict=True)
                rows = [self._row(one, texts[row], correct[row], image, view) for image, view in found]
                results.append(SampleResult(one.name, tuple(rows)))
        return results

    def _answer(self, inputs: dict[str, Any]) -> tuple[tuple[Tensor, ...], list[list[View]]]:
        """The model's greedy answers, and the views at the language model's input, per row and image."""
        recorder = Recorder()
        with compress(self._model, recorder) as handle, torch.no_grad():
            output = generate_greedily(self._model, inputs, self.choice.max_new_tokens, self._pad)
            images = handle.report.images
        if len(images) != len(recorder.views):
            raise InputError("two rows of the batch are the same sample, and only one of them was seen")
        views: list[list[View]] = [[] for _ in inputs["input_ids"]]
        for image, view in zip(images, recorder.views, strict=True):
            views[image.row].append(view)
        return answers_of(output[:, inputs["input_ids"].shape[1] :], self._ends), views

    def _is_correct(self, text: str, sample: LabelSample) -> bool | None:
        return matches(text, sample.references, self.choice.match) if sample.references else None

    def _explain(self, asked: Sequence[_PreparedSample], answers: Sequence[Tensor]) -> list[list[ImageRelevance]]:
        """The relevance of each row's images. Rows share one walk per answer token, so only answers of equal length go together."""
        found: list[list[ImageRelevance]] = [[] for _ in asked]
        for length in sorted({len(answer) for answer in answers}):
            rows = [row for row, answer in enumerate(answers) if len(answer) == length]
            inputs = joined([asked[row].inputs for row in rows], self._pad)
            own = [answers[row] for row in rows]
            explained = relevance(self._model, inputs, own, target=self.choice.target, gradients=self.choice.gradients)
            for image in explained.images:
                found[rows[image.row]].append(image)
        return found

    def _row(self, asked: _PreparedSample, answer: str, correct: bool | None, image: ImageRelevance, view: View) -> LabelRow:
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
