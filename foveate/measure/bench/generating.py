"""Decoding by the stock `generate`, with a growing cache, a static one, or a static one and a compiled step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import CompileConfig, LogitsProcessor, LogitsProcessorList

from foveate.chat.timing import Stopwatch, inside_vision
from foveate.measure.bench.records import Timing

__all__ = ["Decoding", "generate", "timed_generate"]

Decoding = Literal["loop", "generate", "static", "compiled"]
"""How new tokens are made: by a plain loop of forward passes, or by `generate` with its default cache, a static cache, or a static cache
and a compiled step."""


class _Marks(LogitsProcessor):
    """Notes when the logits of each token are queued. A hook would do the same, but compiled code should not have to contain it."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self.points: list[Any] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.points.append(self._watch.now())
        return scores


def generate(
    model: Any, inputs: Mapping[str, Tensor], decoding: Decoding, count: int, *, compilation: CompileConfig | None = None, **options: Any
) -> Any:
    """Greedy generation of exactly `count` tokens, with whatever `generate` returns as a dictionary.

    Args:
        model: a loaded transformers model.
        inputs: the prompt.
        decoding: any but "loop".
        count: new tokens.
        compilation: how the step is compiled; `None` for transformers' own choice.
        options: further ones of `generate`.
    """
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": count, "min_new_tokens": count, **options}
    if decoding in ("static", "compiled"):
        options["cache_implementation"] = "static"
        options["disable_compile"] = decoding == "static"
    if decoding == "compiled" and (compilation is not None or model.device.type == "cpu"):
        compilation = CompileConfig() if compilation is None else compilation
        compilation._compile_all_devices = True  # without it transformers compiles nothing on a CPU
        options["compile_config"] = compilation
    return model.generate(**inputs, return_dict_in_generate=True, use_cache=True, **options)


def timed_generate(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    decoding: Decoding,
    marks: Sequence[int],
    *,
    compilation: CompileConfig | None = None,
) -> Timing:
    """Time one generation; the prefill includes what `generate` does before it, and each token what it does between tokens.

    Args:
        model: a loaded transformers model.
        inputs: the prompt.
        decoding: any but "loop".
        marks: numbers of new tokens at which times are taken.
        compilation: as in `generate`.
    """
    device = next(model.parameters()).device
    watch = Stopwatch(device)
    points, spans = _Marks(watch), []

    @contextlib.contextmanager
    def vision() -> Iterator[None]:
        begin = watch.now()
        yield
        spans.append((begin, watch.now()))

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    with inside_vision(model, vision):
        start = watch.now()
        generate(model, inputs, decoding, max(marks), compilation=compilation, logits_processor=LogitsProcessorList([points]))
    tower = sum(watch.between(*span) for span in spans)
    ends = {mark: watch.between(start, points.points[mark - 1]) for mark in marks}
    return Timing(tower, watch.between(start, points.points[0]) - tower, 0.0, ends)
