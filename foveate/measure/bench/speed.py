"""Time, memory and operations of a compressed model, compared with the full model and with the ideal.

All ways of running take turns within each round, each round starts with another one, and ratios are formed within a round, so that
a machine whose speed drifts favours none of them. There are two kinds of *ideal*, which choose nothing: one has the full
sequence up to the method's layer and the short one after it, like the method; the other has the short one from the start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CompileConfig

from foveate.chat.timing import GenerationTimer, inside_vision
from foveate.engine.arguments import as_argument, cache_of
from foveate.engine.cache import cache_bytes
from foveate.errors import FoveateError, UnsupportedError
from foveate.measure.bench.busy import BusyTime
from foveate.measure.bench.flops import OperationCounter
from foveate.measure.bench.generating import Decoding, generate, timed_generate
from foveate.measure.bench.hooks import HookTime
from foveate.measure.bench.memory import out_of_memory, peak_memory
from foveate.measure.bench.records import Group, Timing
from foveate.measure.bench.variants import FULL, Variant, bound, count_variants, variants
from foveate.method import Method

__all__ = ["FULL", "measure", "runs_before"]

UNCOUNTED = 2
"""Untimed rounds at the start: one for operations, one for memory and hooks. They also warm up."""


def measure(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    methods: Sequence[Method],
    *,
    rounds: int = 10,
    new_tokens: Sequence[int] = (1, 8),
    decodings: Sequence[Decoding] = ("loop",),
    compiled_layers: bool = False,
    compilation: CompileConfig | None = None,
    until: Callable[[], bool] = lambda: False,
    group: Group | None = None,
    after_round: Callable[[Group], None] = lambda group: None,
    progress: Callable[[], object] = lambda: None,
) -> Group:
    """Run the full model, the ideals and every method in turn, `rounds` times after two untimed rounds.

    On CUDA one more untimed round comes last, which finds out how long the device computes; see `foveate.measure.bench.busy`. A row that
    runs out of memory is marked as failed, and the others continue; so is one with compiled layers, or decoded by `generate`, that
    cannot run.

    Args:
        model: a loaded model of a known family.
        inputs: a prompt with one image per row and no padding; rows must differ, because equal ones share one plan.
        methods: each at its own layer; ideals are measured for each distinct (layer, tokens).
        rounds: timed rounds, including those that `group` already has.
        new_tokens: numbers of new tokens at which times are taken; the largest is generated.
        decodings: ways of making new tokens, in each of which the full model and every method run; ideals run in "loop" alone.
        compiled_layers: also run every method with compiled layers after its cut.
        compilation: how "compiled" compiles the decoding step; `None` for transformers' own choice.
        until: asked before each timed round after the first; true ends the measurement with the rounds so far.
        group: an interrupted measurement of the same model, prompt and methods, to resume.
        after_round: called with the group after every timed round, to save it.
        progress: called after every single run.

    Returns:
        the group, with one more round per call of `after_round`.

    Raises:
        BudgetError, LayerError, SignalError: a method does not fit the model; before anything is timed.
        InputError: `group` has other rows.
    """
    made = variants(model, inputs, methods, decodings, compiled_layers=compiled_layers)
    if group is None:
        batch, length = inputs["input_ids"].shape
        group = Group(batch, length, made[0].row.tokens, [variant.row for variant in made])
    else:
        made = bound(made, group.rows)
    if group.rounds >= rounds:
        return group
    marks = sorted({1, *new_tokens})
    try:
        with _room_to_compile(decodings):
            _measure(group, made, inputs, rounds, marks, compilation, until, after_round, progress)
    finally:
        for variant in made:
            variant.close()
    return group


def _room_to_compile(decodings: Sequence[Decoding]) -> AbstractContextManager[Any]:
    """Let all compiled rows have code of their own: after eight lengths torch.compile would run the others uncompiled, and say nothing."""
    if "compiled" not in decodings:
        return contextlib.nullcontext()
    import torch._dynamo  # takes seconds

    return torch._dynamo.config.patch(recompile_limit=64)


def _measure(
    group: Group,
    made: Sequence[Variant],
    inputs: Mapping[str, Tensor],
    rounds: int,
    marks: Sequence[int],
    compilation: CompileConfig | None,
    until: Callable[[], bool],
    after_round: Callable[[Group], None],
    progress: Callable[[], object],
) -> None:
    """All rounds of `measure`."""

    def everyone(run: Callable[[Variant], Any], order: Sequence[Variant] = made) -> dict[str, Any]:
        found = {}
        for variant in order:
            found[variant.row.name] = _attempt(variant, lambda variant=variant: run(variant))  # type: ignore[misc]
            progress()
        return found

    everyone(lambda variant: _count(variant, inputs, marks[-1], compilation))
    _split_method_flops(group)
    everyone(lambda variant: _weigh(variant, inputs, marks[-1], compilation))
    for turn in range(group.rounds, rounds):
        if group.rounds and until():
            break
        order = [*made[turn % len(made) :], *made[: turn % len(made)]]
        found = everyone(lambda variant: _time(variant, inputs, marks, compilation), order)
        # All at once, so that an interruption leaves only whole rounds.
        for variant in made:
            if variant.row.failed is None:
                variant.row.timings.append(found[variant.row.name])
        after_round(group)
    if _device(inputs).type == "cuda":  # last, because a profiler may slow down what comes after it
        everyone(lambda variant: _watch(variant, inputs))


def runs_before(
    rounds: int,
    methods: Sequence[Method],
    tokens: int,
    decodings: Sequence[Decoding] = ("loop",),
    *,
    compiled_layers: bool = False,
    cuda: bool = False,
) -> int:
    """How often `measure` calls `progress` for a new group with that many visual tokens."""
    return (rounds + UNCOUNTED + cuda) * count_variants(methods, tokens, decodings, compiled_layers=compiled_layers)


def _attempt(variant: Variant, run: Callable[[], Any]) -> Any:
    """Run it, unless it failed before. Running out of memory is a result, as is what an optional way of running cannot do."""
    if variant.row.failed is not None:
        return None
    try:
        variant.prepare()
        return run()
    except Exception as error:
        if out_of_memory(error):
            variant.row.failed = "out of memory"
        elif variant.optional:
            variant.row.failed = _reason(error)
        else:
            raise
    variant.row.timings = []
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def _reason(error: Exception) -> str:
    """One line about what could not run; of our own errors the message, of others the kind too."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, FoveateError) else f"{type(error).__name__}: {lines[0]:.200}"


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


def _count(variant: Variant, inputs: Mapping[str, Tensor], count: int, compilation: CompileConfig | None) -> None:
    """Operations of the prefill and of one decoding step, and the attention kernels; what `generate` decodes only warms up."""
    model = variant.model
    if variant.row.decoding != "loop":
        with torch.no_grad(), variant.around():  # as long as all others, because the length of a static cache is compiled
            generate(model, inputs, variant.row.decoding, count, compilation=compilation)
        return
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


def _weigh(variant: Variant, inputs: Mapping[str, Tensor], count: int, compilation: CompileConfig | None) -> None:
    """Peak memory of one generation, the bytes of its cache after the prefill, and the host's time in hooks."""
    row, model, device = variant.row, variant.model, _device(inputs)
    if row.decoding != "loop":
        with torch.no_grad(), variant.around(), peak_memory(device) as memory:
            output = generate(model, inputs, row.decoding, count, compilation=compilation)
        row.memory, row.cache_bytes = {**asdict(memory), "added": memory.added}, cache_bytes(cache_of(output))
        return
    hooks, spent = HookTime(), [0.0]

    def after(number: int, cache: Any) -> None:
        spent.append(hooks.seconds)
        if number == 0:
            row.cache_bytes = cache_bytes(cache)

    with torch.no_grad(), hooks, variant.around(), peak_memory(device) as memory:
        _generate(model, inputs, count, after)
    row.memory = {**asdict(memory), "added": memory.added}
    if not variant.lasts:  # else the hooks were there before
        row.hooks = {"prefill": spent[1], **({"decode": (spent[-1] - spent[1]) / (count - 1)} if count > 1 else {})}


def _time(variant: Variant, inputs: Mapping[str, Tensor], marks: Sequence[int], compilation: CompileConfig | None) -> Timing:
    row, model = variant.row, variant.model
    if row.decoding != "loop":
        with torch.no_grad(), variant.around() as handle:
            timing = timed_generate(model, inputs, row.decoding, marks, compilation=compilation)
            return replace(timing, method=handle.report.method_seconds if row.kind == "method" else 0.0)
    with torch.no_grad(), GenerationTimer(model) as timer, variant.around() as handle:
        with timer.generation() as times:
            _generate(model, inputs, marks[-1], lambda number, cache: None)
        method = handle.report.method_seconds if row.kind == "method" else 0.0
        if row.compiled_layers and handle.compiled.reason is not None:
            raise UnsupportedError(f"no compiled layers ran: {handle.compiled.reason}")
    ends = {mark: times.token_seconds(mark) for mark in marks}
    return Timing(times.vision_seconds or 0.0, times.prefill_seconds, method, ends)


def _watch(variant: Variant, inputs: Mapping[str, Tensor]) -> None:
    """How long the device computes in the prefill, the tower apart, and in one decoding step."""
    model = variant.model
    if variant.row.decoding != "loop":
        return
    device = _device(inputs)
    prefill, decode = BusyTime(device), BusyTime(device)
    with torch.no_grad(), inside_vision(model, prefill.pausing), variant.around(), contextlib.ExitStack() as watching:
        watching.enter_context(prefill.measuring())

        def next_stage(number: int, cache: Any) -> None:
            if number < 2:
                watching.pop_all().close()
            if number == 1:
                watching.enter_context(decode.measuring())

        _generate(model, inputs, 2, next_stage)
    seconds = {"prefill": prefill.seconds, "decode": decode.seconds}
    variant.row.busy = {stage: value for stage, value in seconds.items() if value is not None}


def _device(inputs: Mapping[str, Tensor]) -> torch.device:
    return inputs["input_ids"].device
