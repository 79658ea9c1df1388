"""Time in hooks, busy time of a device, and the rows that static caches, compiled steps and compiled layers add."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_bench_engine import PICTURE, hooks_of, timing
from tiny import tiny_llava
from torch import Tensor, nn
from transformers import CompileConfig

from foveate import FastV, compress, handle_of
from foveate.errors import UnsupportedError
from foveate.measure.bench import busy, speed, variants
from foveate.measure.bench import hooks as hooks_module
from foveate.measure.bench.busy import BusyTime, covered
from foveate.measure.bench.generating import generate, timed_generate
from foveate.measure.bench.hooks import HookTime
from foveate.measure.bench.prompts import random_prompt
from foveate.measure.bench.records import Group, Row, figures
from foveate.measure.bench.speed import measure, runs_before

EAGER = CompileConfig(backend="eager", mode="default", dynamic=False)


def prompt(model: nn.Module, batch: int = 1) -> dict[str, Tensor]:
    return random_prompt(model, PICTURE, before=5, after=6, batch=batch)


@pytest.mark.parametrize(
    ("spans", "length"),
    [([], 0), ([(1, 3)], 2), ([(1, 3), (2, 4)], 3), ([(5, 6), (0, 10), (2, 3)], 10), ([(0, 1), (1, 2), (4, 5)], 3)],
)
def test_kernels_that_overlap_are_busy_once(spans: list[tuple[float, float]], length: float) -> None:
    assert covered(spans) == length


def test_only_a_cuda_device_says_how_long_it_computes() -> None:
    found = BusyTime(torch.device("cpu"))
    with found.measuring(), found.pausing():
        torch.ones(2).sum()
    assert found.seconds is None


def test_what_runs_while_paused_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a profiler that says of each span what it was started for."""
    kernels = iter([[(0, 2e6)], [(1e6, 4e6)]])

    class Profiler(contextlib.nullcontext):
        def events(self) -> list[Any]:
            kinds = [("CUDA", span) for span in next(kernels)] + [("CPU", (0, 9e6))]
            return [
                SimpleNamespace(device_type=SimpleNamespace(name=kind), time_range=SimpleNamespace(start=start, end=end))
                for kind, (start, end) in kinds
            ]

    monkeypatch.setattr(busy, "profile", lambda **options: Profiler())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    found = BusyTime(torch.device("cuda"))
    with found.measuring():
        with found.pausing():
            pass
    assert found.seconds == 5


@pytest.mark.gpu
def test_a_gpu_is_busy_for_a_part_of_the_time_on_the_clock() -> None:
    device = torch.device("cuda")
    matrix = torch.randn(4096, 4096, device=device)
    matrix @ matrix
    found = BusyTime(device)
    with found.measuring():
        start = time.perf_counter()
        for _ in range(10):
            matrix @ matrix
        torch.cuda.synchronize()
        time.sleep(0.2)
        spent = time.perf_counter() - start
    assert found.seconds is not None
    assert 0 < found.seconds < spent - 0.15


def test_hooks_are_timed_once_also_inside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer, clock = nn.Linear(2, 2), nn.Linear(2, 2), [0.0]
    monkeypatch.setattr(hooks_module.time, "perf_counter", lambda: clock[0])

    def slow(module: nn.Module, args: Any) -> None:
        clock[0] += 2
        if module is outer:
            inner(args[0])

    with HookTime() as hooks:
        handles = [each.register_forward_pre_hook(slow) for each in (outer, inner)]
        outer(torch.ones(2))
        spent = hooks.seconds
        for handle in handles:
            handle.remove()
        outer(torch.ones(2))
    assert spent == 4
    assert hooks.seconds == spent
    assert not hooks_of(outer)[0][0]
    assert nn.Module.register_forward_pre_hook.__module__ == "torch.nn.modules.module"


def test_a_handle_is_found_while_its_hooks_are_timed() -> None:
    model = tiny_llava()
    with HookTime() as hooks, compress(model, FastV(keep=4)) as handle, torch.no_grad():
        assert handle_of(model) is handle
        model(**prompt(model))
        assert handle.report.tokens_after == 4
    assert hooks.seconds > 0


def test_only_methods_and_ideals_spend_time_in_hooks() -> None:
    model = tiny_llava()
    group = measure(model, prompt(model), [FastV(keep=4)], rounds=1, new_tokens=(1, 3))
    full, *others = group.rows
    assert full.hooks == {"prefill": 0.0, "decode": 0.0}
    assert all(row.hooks["prefill"] > 0 and row.hooks["decode"] > 0 for row in others)
    assert [row.busy for row in group.rows] == [{}] * 4


def test_generate_adds_rows_whose_ratios_are_its_own() -> None:
    model = tiny_llava()
    generate(model, prompt(model), "generate", 2)  # transformers itself leaves marks on a model that has run
    before = hooks_of(model)
    group = measure(
        model, prompt(model), [FastV(keep=4)], rounds=1, new_tokens=(1, 3), decodings=("generate", "static", "compiled"), compilation=EAGER
    )
    assert [row.name for row in group.rows] == [
        *("full, generate", "FastV(keep=4), generate", "full, static cache", "FastV(keep=4), static cache"),
        *("full, compiled", "FastV(keep=4), compiled"),
    ]
    assert {row.name for row in group.rows if row.failed} <= {"FastV(keep=4), static cache", "FastV(keep=4), compiled"}
    by_name = {row.name: figures(group, row) for row in group.rows}
    assert by_name["full, generate"]["decode_of_full 3"].median == 1
    compiled = by_name["full, compiled"]
    assert compiled["decode_of_same 3"].median == 1
    assert compiled["decode_of_full 3"].median == compiled["decode 3"].median / by_name["full, generate"]["decode 3"].median
    assert hooks_of(model) == before
    assert not hasattr(model, "_compiled_call")


def test_a_timed_generation_generates_what_was_asked_for() -> None:
    model = tiny_llava()
    inputs = prompt(model)
    tokens = [generate(model, inputs, way, 4, compilation=EAGER).sequences for way in ("generate", "static", "compiled")]
    assert all(torch.equal(each, tokens[0]) for each in tokens)
    assert tokens[0].shape[1] == inputs["input_ids"].shape[1] + 4
    found = timed_generate(model, inputs, "static", (1, 4))
    assert list(found.ends) == [1, 4]
    assert 0 < found.tower < found.ends[1] < found.ends[4]
    assert found.prefill == pytest.approx(found.ends[1] - found.tower)


def test_what_lasts_is_compressed_once_on_a_copy_that_shares_the_weights() -> None:
    model = tiny_llava()
    made = variants.variants(model, prompt(model), [FastV(keep=4)], ("compiled",))
    full, method = made
    method.prepare()
    copied = method.model
    assert copied is not model
    assert all(one is other for one, other in zip(model.parameters(), copied.parameters(), strict=True))
    with method.around() as first, method.around() as second:
        assert first is second is handle_of(copied)
    assert handle_of(model) is None
    method.close()
    assert handle_of(copied) is None
    full.close()


def test_compiled_layers_that_did_not_run_are_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiling(function: Any, **_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", compiling)
    model = tiny_llava()
    group = measure(model, prompt(model), [FastV(keep=4)], rounds=2, new_tokens=(1,), compiled_layers=True)
    row = group.row("FastV(keep=4), compiled layers")
    assert row is not None
    assert row.failed == "no compiled layers ran: the layers cannot be compiled: RuntimeError: no compiler here"
    assert not row.timings
    assert group.rounds == 2


def test_an_optional_way_that_cannot_run_says_why_and_any_other_error_is_one() -> None:
    def raises(error: Exception) -> Any:
        raise error

    optional = variants.Variant(Row("compiled", "full", 4, decoding="static"), nn.Linear(1, 1), lambda model: contextlib.nullcontext())
    speed._attempt(optional, lambda: raises(ValueError("no compiler\nhere")))
    assert optional.row.failed == "ValueError: no compiler"
    optional.row.failed = None
    speed._attempt(optional, lambda: raises(UnsupportedError("not so")))
    assert optional.row.failed == "not so"
    needed = variants.Variant(Row("full", "full", 4), nn.Linear(1, 1), lambda model: contextlib.nullcontext())
    with pytest.raises(ValueError, match="no compiler"):
        speed._attempt(needed, lambda: raises(ValueError("no compiler")))


def test_a_measurement_ends_early_with_whole_rounds_if_asked_to() -> None:
    model = tiny_llava()
    group = measure(model, prompt(model), [], rounds=5, new_tokens=(1,), until=lambda: True)
    assert group.rounds == 1


def test_runs_are_counted_with_everything_that_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model, runs = tiny_llava(), []
    ways: tuple[Any, ...] = ("loop", "generate", "static")
    measure(model, prompt(model), [FastV(keep=4)], rounds=1, decodings=ways, compiled_layers=True, progress=lambda: runs.append(1))
    assert len(runs) == runs_before(1, [FastV(keep=4)], 16, ways, compiled_layers=True)


def test_decoding_is_compared_with_the_full_model_that_decodes_alike() -> None:
    rows = [
        Row("full", "full", 16, timings=[timing(9)]),
        Row("full, generate", "full", 16, decoding="generate", timings=[timing(2)]),
        Row("full, compiled", "full", 16, decoding="compiled", timings=[timing(4)]),
        Row("method, compiled", "method", 4, decoding="compiled", timings=[timing(1)]),
    ]
    found = figures(Group(1, 27, 16, rows), rows[-1])
    assert found["prefill_of_full"].median == 1 / 2
    assert {"decode_of_full 3", "decode_of_same 3"} <= set(found)
