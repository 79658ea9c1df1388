"""`foveate bench`: what compression costs and saves, measured beside the full model and the ideal."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli import console
from foveate.cli.adapter import command_line
from foveate.cli.bench.subject import BenchSubject, Prompts, load_bench
from foveate.cli.checks import check_output, check_outputs, model_files, model_label, parse_image_size, parse_keep, write
from foveate.cli.specs import NO_METHOD, is_no_method, method_of, split_specs
from foveate.errors import InputError

if TYPE_CHECKING:
    from foveate.cli.bench.command import Bench
    from foveate.measure.bench.generating import Decoding
    from foveate.measure.bench.records import Group, Run
    from foveate.method import Method

__all__ = ["bench", "compare"]

_LARGEST = 10**7
"""Above any batch, prompt or answer that a machine can hold, and far below what overflows."""
_USUAL_SPLIT = 36 / 76
"""Of a prompt's text tokens, the share before the image, in the prompt that papers measure with."""


def bench(request: Bench) -> None:
    """Measure, save after every round, and print the result.

    Raises:
        FoveateError: whatever is wrong with the request, before anything slow is done where it can be known then.
    """
    _check_outputs(request)
    if request.out is None:
        _bench(request)
        return
    from foveate.files.locks import claimed_file

    with claimed_file(request.out):
        _bench(request)


def _bench(request: Bench) -> None:
    """Measure, while the file of results, if there is one, is held."""
    batches, lengths = _numbers("--batch", request.batch), _numbers("--new-tokens", request.new_tokens)
    prompts = Prompts(*_prompt(request.prompt), parse_image_size(request.image_size), request.seed)
    methods = _methods(request)
    earlier = _earlier(request)
    overhead = _host_overhead(request) if request.host_overhead else {}
    loaded = load_bench(
        request.model,
        request.scale,
        prompts,
        methods,
        dtype=request.dtype,
        device=request.device,
        attention=request.attention,
    )
    run = _run(request, loaded, earlier, lengths, prompts)
    run.host_overhead = overhead or run.host_overhead
    try:
        for batch in batches:
            _measure_batch(request, run, loaded, methods, prompts, batch, lengths)
    except KeyboardInterrupt:
        kept = sum(group.rounds for group in run.groups)
        console.note(
            f"stopped; {kept} finished round(s) are in {request.out}, and the same command resumes there"
            if request.out and kept
            else "stopped; nothing was saved"
        )
        raise
    _show(request, run, lengths)


def compare(one: Path, other: Path, *, as_json: bool) -> None:
    """Print two results side by side.

    Raises:
        InputError: a file is no result, or comparing them would not be fair, and why.
    """
    from foveate.cli.bench.tables import comparison_table
    from foveate.measure.bench.comparison import notes, pairs, unfair
    from foveate.measure.bench.records import Run, figures

    first, second = Run.load(one), Run.load(other)
    reasons = unfair(first, second)
    if reasons:
        raise InputError(f"{one.name} and {other.name} cannot be compared, because they differ in {'; '.join(reasons)}")
    found = pairs(first, second)
    names = (one.name, other.name) if one.name != other.name else (f"{one.name} (first)", f"{other.name} (second)")
    if as_json:
        medians = [
            {"batch": a.batch, "row": row.name, "what": what, "first": figure.median, "second": figures(b, rival)[what].median}
            for a, row, b, rival in found
            for what, figure in figures(a, row).items()
            if what in figures(b, rival)
        ]
        console.put_json({"files": list(names), "differences": notes(first, second), "medians": medians})
        return
    console.put_table(comparison_table(found, names), wide=True)
    for text in notes(first, second):
        console.note(f"the runs differ in {text}")


def _check_outputs(request: Bench) -> None:
    if request.out:
        check_output(request.out, "results", (".json",))
    if request.plot:
        check_output(request.plot, "plot", (".png", ".svg", ".pdf"))
        if importlib.util.find_spec("matplotlib") is None:
            raise InputError("--plot needs matplotlib, which is not installed: pip install 'foveate[plots]'")
    check_outputs([request.out, request.plot], model_files(request.model))


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """Positive numbers with commas between them, each once, in the order given."""
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1 or max(numbers) > _LARGEST:
        raise InputError(f"{option} {text!r:.80} must be whole numbers from 1 upwards, separated by commas, such as 1,8")
    return numbers


def _prompt(text: str) -> tuple[int, int]:
    """Text tokens before and after the image."""
    before, plus, after = text.partition("+")
    try:
        if plus:
            counts = int(before), int(after)
        else:
            front = round(int(text) * _USUAL_SPLIT)
            counts = front, int(text) - front
    except (ValueError, OverflowError):
        counts = -1, -1
    if min(counts) < 0 or max(counts) > _LARGEST:
        raise InputError(
            f"--prompt {text!r:.80} must be a number of text tokens, such as 76, or those before and after the image, such as 36+40"
        )
    return counts


def _methods(request: Bench) -> list[Method]:
    """Every method at every budget."""
    specs = split_specs(request.methods)
    if not specs:
        raise InputError(f"--methods {request.methods!r} names nothing; see foveate methods, or pass {NO_METHOD} for the full model")
    budgets = list(dict.fromkeys(parse_keep(part) for part in request.keep.split(",")))
    return [method_of(spec, keep, request.layer) for spec in specs if not is_no_method(spec) for keep in budgets]


def _settings(request: Bench, prompts: Prompts, lengths: Sequence[int]) -> dict[str, Any]:
    """What decides what is measured; batch sizes and repeats may grow from run to run."""
    read = {
        "model": model_label(request.model),
        "image_size": prompts.image_size and list(prompts.image_size),
        "prompt": [prompts.before, prompts.after],
        "new_tokens": sorted(lengths),
    }
    found = {name: read[name] if name in read else getattr(request, name) for name in request.IDENTIFYING}
    return found | {name: True for name in request.ADDING if getattr(request, name)}


def _decodings(request: Bench) -> tuple[Decoding, ...]:
    """The plain loop and the ways that are added, after the one that they are compared with."""
    asked: dict[Decoding, bool] = {"static": request.static, "compiled": request.compile}
    added = tuple(way for way, wanted in asked.items() if wanted)
    return ("loop", "generate", *added) if added else ("loop",)


def _host_overhead(request: Bench) -> dict[str, dict[str, float]]:
    """What each of the methods costs the host where nearly all the time of a prefill is Python's."""
    from foveate.measure.bench.host_overhead import host_overhead

    specs = [spec for spec in split_specs(request.methods) if not is_no_method(spec)]
    with console.spinner("measuring the host's overhead"):
        found = host_overhead([functools.partial(_spare_one, spec, request.layer) for spec in specs])
    return {each.method: {name: value for name, value in asdict(each).items() if name != "method"} for each in found}


def _spare_one(spec: str, layer: int | None, keep: int) -> Method:
    return _untrained(method_of(spec, keep, layer))


def _untrained(method: Method) -> Method:
    """The same method for a model that nothing was trained for; a network's weights do not change its cost."""
    return replace(method, compressor="untrained") if hasattr(method, "compressor") else method  # type: ignore[call-arg]


def _earlier(request: Bench) -> Run | None:
    """The run that --out already holds."""
    from foveate.measure.bench.records import Run

    return Run.load(request.out) if request.out and request.out.exists() else None


def _run(request: Bench, loaded: BenchSubject, earlier: Run | None, lengths: Sequence[int], prompts: Prompts) -> Run:
    from foveate.measure.bench.records import Run
    from foveate.measure.bench.shapes import sizes
    from foveate.measure.facts import facts

    settings = _settings(request, prompts, lengths)
    run = Run(settings, command_line("bench", request, model=settings["model"]), facts(loaded.model), sizes(loaded.model.config))
    if earlier is not None and request.out is not None:
        run.resume(earlier, request.out)
    return run


def _measure_batch(
    request: Bench, run: Run, loaded: BenchSubject, methods: Sequence[Method], prompts: Prompts, batch: int, lengths: Sequence[int]
) -> None:
    from foveate.chat.processors import refusals_of
    from foveate.measure.bench.memory import out_of_memory
    from foveate.measure.bench.prompts import visual_tokens
    from foveate.measure.bench.records import Group
    from foveate.measure.bench.speed import measure, runs_before

    known = next((group for group in run.groups if group.batch == batch), None)

    def keep(group: Group) -> None:
        run.groups = sorted([*(other for other in run.groups if other.batch != batch), group], key=lambda each: each.batch)
        if request.out:
            write(request.out, "results", run.save)

    tokens, length = 0, 0
    try:
        inputs = loaded.inputs(prompts, batch, max(lengths))
        tokens, length = visual_tokens(loaded.model, inputs["input_ids"]), inputs["input_ids"].shape[1]
        for method in methods:
            method.budget(tokens)
        decodings, cuda = _decodings(request), loaded.model.device.type == "cuda"
        runs = runs_before(request.repeats, methods, tokens, decodings, compiled_layers=request.compiled_layers, cuda=cuda)
        with refusals_of(loaded.model), console.counting(f"batch {batch}", runs) as step:
            keep(
                measure(
                    loaded.model,
                    inputs,
                    methods,
                    rounds=request.repeats,
                    new_tokens=lengths,
                    decodings=decodings,
                    compiled_layers=request.compiled_layers,
                    group=known if known is not None and known.rows else None,
                    after_round=keep,
                    progress=step,
                )
            )
    except Exception as error:
        if not out_of_memory(error):
            raise
        keep(Group(batch, length, tokens, failed="out of memory"))
        console.note(f"batch {batch} runs out of memory on {loaded.model.device}; what was measured before is kept; try --dtype bfloat16")


def _show(request: Bench, run: Run, lengths: Sequence[int]) -> None:
    if request.plot:
        _plot(request.plot, run)
    if request.as_json:
        console.put_json(run.to_dict())
        return
    from foveate.cli.bench.tables import headline, host_overhead_table, tables_of, warnings

    for line in headline(run):
        console.put(line)
    for group in run.groups:
        console.put("")
        console.put(
            f"batch {group.batch}: {group.visual_tokens} visual of {group.prompt_tokens} tokens, {group.rounds} rounds", style="bold"
        )
        if group.failed:
            console.put(group.failed, style="yellow")
            continue
        for table in tables_of(group, sorted({1, *lengths})):
            console.put_table(table, wide=True)
            console.put("")
        for text in warnings(group):
            console.note(text)
    if run.host_overhead:
        console.put_table(host_overhead_table(run), wide=True)
        console.put("")
    console.put(
        "medians ± half the distance of the quartiles (of times in percent, of shares in points); ratios are formed within each round",
        style="dim",
    )
    for written in (request.out, request.plot):
        if written:
            console.put(f"written: {written}")


def _plot(path: Path, run: Run) -> None:
    from foveate.measure.bench.plots import draw

    if not any(group.rounds for group in run.groups):
        console.note(f"nothing was measured, so {path} is not drawn")
        return

    with console.spinner("drawing"):
        write(path, "plot", lambda where: draw(run, where))
