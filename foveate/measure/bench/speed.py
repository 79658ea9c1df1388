"""Time, memory and operations of a compressed model, compared with the full model and with the ideal.

All ways of running take turns within each round, each round starts with another one, and ratios are formed within a round, so that
a machine whose speed drifts favours none of them. There are two kinds of *ideal*, which choose nothing: one has the full
sequence up to the method's layer and the short one after it, like the method; the other has the short one from the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from foveate.chat.counting import recorded
from foveate.chat.timing import GenerationTimer, inside_vision
from foveate.compression import compress
from foveate.engine.arguments import as_argument, cache_of
from foveate.engine.cache import cache_bytes
from foveate.errors import InputError
from foveate.families import ImageTokens
from foveate.measure.bench.flops import OperationCounter
from foveate.measure.bench.ideal import ideal
from foveate.measure.bench.memory import out_of_memory, peak_memory
from foveate.measure.bench.records import Group, Row, Timing
from foveate.method import Method

__all__ = ["FULL", "measure", "runs_before"]

FULL = "full"
"""The name of the full model's row."""

UNCOUNTED = 2
"""Untimed rounds at the start: one for operations, one for memory. They also warm up."""


@dataclass
class _Variant:
    row: Row
    around: Callable[[], AbstractContextManager[Any]]


def measure(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    methods: Sequence[Method],
    *,
    rounds: int = 10,
    new_tokens: Sequence[int] = (1, 8),
    group: Group | None = None,
    after_round: Callable[[Group], None] = lambda group: None,
    progress: Callable[[], object] = lambda: None,
) -> Group:
    """Run the full model, the ideals and every method in turn, `rounds` times after two untimed rounds.

    A row that runs out of memory is marked as failed, and the others continue.

    Args:
        model: a loaded model of a known family.
        inputs: a prompt with one image per row and no padding; rows must differ, because equal ones share one plan.
        methods: each at its own layer; ideals are measured for each distinct (layer, tokens).
        rounds: timed rounds, including those that `group` already has.
        new_tokens: numbers of new tokens at which times are taken; the largest is generated.
        group: an interrupted measurement of the same model, prompt and methods, to resume.
        after_round: called with the group after every timed round, to save it.
        progress: called after every single run.

    Returns:
        the group, with one more round per call of `after_round`.

    Raises:
        BudgetError, LayerError, SignalError: a method does not fit the model; before anything is timed.
        InputError: `group` has other rows.
    """
    variants = _variants(model, inputs, methods)
    if group is None:
        group = _start(inputs, variants)
    else:
        variants = _bound(variants, group)
    if group.rounds >= rounds:
        return group
    marks = sorted({1, *new_tokens})
    for variant in variants:
        _attempt(variant, lambda variant=variant: _count(variant, model, inputs))  # type: ignore[misc]
        progress()
    _split_method_flops(group)
    for variant in variants:
        _attempt(variant, lambda variant=variant: _weigh(variant, model, inputs, marks[-1]))  # type: ignore[misc]
        progress()
    for turn in range(group.rounds, rounds):
        found: dict[str, Timing] = {}
        for variant in variants[turn % len(variants) :] + variants[: turn % len(variants)]:
            timing = _attempt(variant, lambda variant=variant: _time(variant, model, inputs, marks))  # type: ignore[misc]
            progress()
            if timing is not None:
                found[variant.row.name] = timing
        # All at once, so that an interruption leaves only whole rounds.
        for variant in variants:
            if variant.row.failed is None:
                variant.row.timings.append(found[variant.row.name])
        after_round(group)
    return group


def runs_before(rounds: int, methods: Sequence[Method], tokens: int) -> int:
    """How often `measure` calls `progress` for a new group with that many visual tokens."""
    rivals = {(layer, method.budget(tokens)) for method in methods for layer in (0, method.layer)}
    return (rounds + UNCOUNTED) * (1 + len(methods) + len(rivals))


def _start(inputs: Mapping[str, Tensor], variants: Sequence[_Variant]) -> Group:
    """A group without rounds."""
    batch, length = inputs["input_ids"].shape
    return Group(batch, length, variants[0].row.tokens, [variant.row for variant in variants])


def _variants(model: nn.Module, inputs: Mapping[str, Tensor], methods: Sequence[Method]) -> list[_Variant]:
    for method in methods:
        compress(model, method).remove()  # refuses layers and signals that do not exist
    image = _image(model, inputs)
    total, length = image.columns.numel(), inputs["input_ids"].shape[1]
    budgets = [method.budget(total, image.grid[0]) for method in methods]
    text = torch.ones(length, dtype=torch.bool)
    text[image.columns] = False
    variants = [_Variant(Row(FULL, "full", total), contextlib.nullcontext)]
    for method, keep in zip(methods, budgets, strict=True):
        stays = text.clone()
        stays[image.columns.sort().values[torch.linspace(0, total - 1, keep).round().long()]] = True
        columns = stays.nonzero()[:, 0]
        for layer in dict.fromkeys((0, method.layer)):
            name = _ideal_name(keep, layer)
            if all(variant.row.name != name for variant in variants):
                variants.append(_Variant(Row(name, "ideal", keep, layer), _bind(ideal, model, columns, layer)))
        options = {"name": method.name, **asdict(method)}
        row = Row(str(method), "method", keep, method.layer, _ideal_name(keep, method.layer), options)
        if all(variant.row.name != row.name for variant in variants):
            variants.append(_Variant(row, _bind(compress, model, method)))
    return variants


def _ideal_name(keep: int, layer: int) -> str:
    return f"ideal {keep} from {f'layer {layer}' if layer else 'the start'}"


def _image(model: nn.Module, inputs: Mapping[str, Tensor]) -> ImageTokens:
    """The position of the image in each row, found by one forward pass."""
    with recorded(model) as images:
        with torch.no_grad():
            model(**inputs, use_cache=False, logits_to_keep=1)
        return images(inputs["input_ids"])[0][0]


def _bind(call: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    return lambda: call(*args)


def _bound(variants: Sequence[_Variant], group: Group) -> list[_Variant]:
    """The same ways of running, writing to the rows of `group`."""
    mine, theirs = [variant.row.name for variant in variants], [row.name for row in group.rows]
    if mine != theirs:
        raise InputError(f"the measurement to resume has other rows: {', '.join(theirs)}; this one has {', '.join(mine)}")
    return [_Variant(row, variant.around) for row, variant in zip(group.rows, variants, strict=True)]


def _attempt(variant: _Variant, run: Callable[[], Timing | None]) -> Timing | None:
    """Run it, unless it failed before; running out of memory is a result, anything else is an error."""
    if variant.row.failed is not None:
        return None
    try:
        return run()
    except Exception as error:
        if not out_of_memory(error):
            raise
    variant.row.failed, variant.row.timings = "out of memory", []
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _generate(model: nn.Module, inputs: Mapping[str, Tensor], count: int, after: Callable[[int, Any], None]) -> None:
    """Greedy generation of `count` tokens; `after(n, cache)` is called after the n-th token, and with 0 after the prefill."""
    output = model(**inputs, use_cache=True, logits_to_keep=1)
    cache = cache_of(output)
    after(0, cache)
    token = output.logits[:, -1:].argmax(-1)
    after(1, cache)
    for number in range(2, count + 1):
        token = model(input_ids=token, **as_argument(cache), use_cache=True, logits_to_keep=1).logits[:, -1:].argmax(-1)
        after(number, cache)


def _count(variant: _Variant, model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
    """Operations of the prefill and of one decoding step, and the attention kernels."""
    tower = OperationCounter()
    counts = [OperationCounter(), OperationCounter()]
    with torch.no_grad(), inside_vision(model, lambda: tower), variant.around(), contextlib.ExitStack() as counting:
        counting.enter_context(counts[0])

        def next_stage(number: int, cache: Any) -> None:
            if number == 1:
                counting.pop_all().close()
                counting.enter_context(counts[1])

        _generate(model, inputs, 2, next_stage)
    variant.row.flops = {"tower": tower.total, "prefill": counts[0].total - tower.total, "decode": counts[1].total}
    variant.row.kernels = tuple(sorted({*counts[0].kernels, *counts[1].kernels}))


def _split_method_flops(group: Group) -> None:
    """A method's own operations are those that its ideal, which does the same without choosing, does not have."""
    for row in group.rows:
        rival = group.row(row.rival)
        if rival is not None and rival.flops and row.flops:
            extra = sum(row.flops[stage] - rival.flops[stage] for stage in ("tower", "prefill"))
            row.flops = {**row.flops, "method": extra}


def _weigh(variant: _Variant, model: nn.Module, inputs: Mapping[str, Tensor], count: int) -> None:
    """Peak memory of one generation, and the bytes of its cache after the prefill."""

    def after(number: int, cache: Any) -> None:
        if number == 0:
            variant.row.cache_bytes = cache_bytes(cache)

    with torch.no_grad(), variant.around(), peak_memory(inputs["input_ids"].device) as memory:
        _generate(model, inputs, count, after)
    variant.row.memory = {**asdict(memory), "added": memory.added}


def _time(variant: _Variant, model: nn.Module, inputs: Mapping[str, Tensor], marks: Sequence[int]) -> Timing:
    with torch.no_grad(), GenerationTimer(model) as timer, variant.around() as handle:
        with timer.generation() as times:
            _generate(model, inputs, marks[-1], lambda number, cache: None)
        method = handle.report.method_seconds if variant.row.kind == "method" else 0.0
    ends = {mark: times.token_seconds(mark) for mark in marks}
    return Timing(times.vision_seconds or 0.0, times.prefill_seconds, method, ends)
