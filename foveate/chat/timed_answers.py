"""Answering one prompt with a method and with the full model, and timing both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from foveate.chat.greedy import generate_greedily
from foveate.chat.processors import refusals_of
from foveate.chat.timing import GenerationTimer

if TYPE_CHECKING:
    from foveate.chat.models import Prompt, Subject
    from foveate.method import Method
    from foveate.report import Report

__all__ = ["TimedAnswer", "TimedAnswers", "answer"]

_WARM_UP_TOKENS = 2


@dataclass(frozen=True)
class TimedAnswer:
    """One answer. Times are seconds, medians over the repeated runs; `foveate.chat.timing` defines them.

    Attributes:
        answer: the text.
        visual_tokens: those that remain after the prefill, as a report counts them: without newlines and the like.
        cache_bytes: keys and values after the prefill, as found in the cache; `None` without a cache.
        vision_seconds: in vision tower and projector; `None` if they could not be told apart from the rest.
        prefill_seconds: the rest of the forward pass that takes the prompt; the method's time is part of it.
        first_token_seconds: from the start of `generate` to the first logits.
        decode_seconds_per_token: after the first token; `None` for an answer of one token.
        new_tokens: tokens of the answer.
        method_seconds: time in signals and plans; 0 for the full model.
    """

    answer: str
    visual_tokens: int
    cache_bytes: int | None
    vision_seconds: float | None
    prefill_seconds: float
    first_token_seconds: float
    decode_seconds_per_token: float | None
    new_tokens: int
    method_seconds: float


@dataclass(frozen=True)
class TimedAnswers:
    """The answers to one prompt; at least one of the two is there.

    Attributes:
        compressed: the answer with the method, unless there is no method.
        full: the full model's answer, if it was asked for.
        report: the report of the compressed prefill.
        visual_tokens: before compression, counted as in the answers.
        newlines: other tokens of the images, such as the ends of their rows, which always stay.
    """

    compressed: TimedAnswer | None
    full: TimedAnswer | None
    report: Report | None
    visual_tokens: int
    newlines: int

    @property
    def first(self) -> TimedAnswer:
        """The answer to show: the compressed one if there is one."""
        shown = self.compressed or self.full
        if shown is None:
            raise ValueError("there is neither a compressed nor a full answer")
        return shown

    @property
    def agree(self) -> bool | None:
        """Whether both answers are the same text; `None` if there is only one."""
        return self.compressed.answer == self.full.answer if self.compressed and self.full else None

    @property
    def cache_bytes_before(self) -> int | None:
        """Keys and values of the prefill without compression, if they are known."""
        return self.report.cache_bytes_before if self.report else self.full.cache_bytes if self.full else None


def answer(subject: Subject, prompt: Prompt, method: Method | None, *, compare: bool, new_tokens: int, repeat: int) -> TimedAnswers:
    """Answer greedily.

    Args:
        subject: the model.
        prompt: the question.
        method: how to compress; `None` for the full model alone.
        compare: run the full model as well, each after a warm-up.
        new_tokens: longest answer.
        repeat: runs of each; times are their medians.
    """
    compressed = full = report = None
    if compare:
        # Both ways once before either is timed: the first run of anything pays for allocation and lazy set-up
        few = min(_WARM_UP_TOKENS, new_tokens)
        _run(subject, prompt, method, few, 1)
        _run(subject, prompt, None, few, 1)
    if method is not None:
        compressed, report = _run(subject, prompt, method, new_tokens, repeat)
    if method is None or compare:
        full, _ = _run(subject, prompt, None, new_tokens, repeat)
    visual = report.tokens_before if report is not None else full.visual_tokens if full is not None else 0
    return TimedAnswers(compressed, full, report, visual, prompt.visual - visual)


def _run(subject: Subject, prompt: Prompt, method: Method | None, new_tokens: int, repeat: int) -> tuple[TimedAnswer, Report | None]:
    from foveate.chat.counting import counted
    from foveate.compression import compress

    runs, method_seconds, report = [], [], None
    around: Any = counted(subject.model) if method is None else compress(subject.model, method)
    with GenerationTimer(subject.model) as timer, around as running:
        for _ in range(repeat):
            with refusals_of(subject.model), timer.generation() as times:
                output = generate_greedily(subject.model, prompt.inputs, new_tokens, _padding(subject))
            runs.append(times)
            report = running.report if method is not None else None
            method_seconds.append(report.method_seconds if report is not None else 0.0)
        visual = report.tokens_after if report is not None else running(prompt.inputs["input_ids"])[0]
    tokens = output[0, prompt.length :]
    measured = TimedAnswer(
        answer=subject.processor.decode(tokens, skip_special_tokens=True).strip(),
        visual_tokens=visual,
        cache_bytes=runs[-1].cache_bytes,
        vision_seconds=_median([times.vision_seconds for times in runs]),
        prefill_seconds=median(times.prefill_seconds for times in runs),
        first_token_seconds=median(times.first_token_seconds for times in runs),
        decode_seconds_per_token=_median([times.decode_seconds for times in runs]),
        new_tokens=tokens.numel(),
        method_seconds=median(method_seconds),
    )
    return measured, report


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _padding(subject: Subject) -> int | None:
    tokenizer = subject.processor.tokenizer
    padding: int | None = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return padding
