"""Measuring: the order of runs, what is counted, and what survives an interruption. No test depends on actual durations."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny import TOKENS, tiny_llava
from torch import Tensor

from foveate import FastV, Method, Plan, TokenCarve, View, compress
from foveate.errors import BudgetError, InputError, LayerError
from foveate.measure.bench import speed
from foveate.measure.bench.ideal import ideal
from foveate.measure.bench.prompts import random_prompt
from foveate.measure.bench.records import Group, Row, Run, Timing, figures
from foveate.measure.bench.shapes import ImageFormat, build, find_shape, parse_size
from foveate.measure.bench.speed import FULL, measure

PICTURE = ImageFormat("square", 28, 28, 7, ())
BEFORE, AFTER = 5, 6
LENGTH = BEFORE + TOKENS + AFTER


@dataclass(frozen=True)
class Exhausting(Method):
    """Runs out of memory."""

    def score(self, view: View) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


@dataclass(frozen=True)
class Even(Method):
    """Keeps evenly spread tokens, as the ideal does."""

    def plan(self, view: View) -> Plan:
        return Plan.keep(torch.linspace(0, len(view) - 1, self.budget(len(view))).round().long(), len(view))


def prompt(model: torch.nn.Module, batch: int = 1) -> dict[str, Tensor]:
    return random_prompt(model, PICTURE, before=BEFORE, after=AFTER, batch=batch)


def hooks_of(model: torch.nn.Module) -> list[tuple[int, int]]:
    return [(len(module._forward_pre_hooks), len(module._forward_hooks)) for module in model.modules()]


def names(group: Group) -> list[str]:
    return [row.name for row in group.rows]


def test_the_full_model_and_both_ideals_stand_beside_every_method() -> None:
    model = tiny_llava()
    group = measure(model, prompt(model, 2), [FastV(keep=4), TokenCarve(keep=4)], rounds=3, new_tokens=(1, 3))
    assert names(group) == [FULL, "ideal 4 from the start", "ideal 4 from layer 2", "FastV(keep=4)", "TokenCarve(keep=4)"]
    assert (group.batch, group.prompt_tokens, group.visual_tokens, group.rounds) == (2, LENGTH, TOKENS, 3)
    for row in group.rows:
        assert {len(row.timings), *(tuple(timing.ends) == (1, 3) for timing in row.timings)} == {3, True}
        assert {"tower", "prefill", "first_token", "decode 3", "end_to_end 3", "tokens_per_second 1"} <= set(figures(group, row))
    assert {"over_ideal", "method_of_full_prefill"} <= set(figures(group, group.rows[-1]))


def test_cache_bytes_are_those_of_the_tokens_that_each_layer_holds() -> None:
    model = tiny_llava()
    group = measure(model, prompt(model), [FastV(keep=4)], rounds=1, new_tokens=(1,))
    token = 2 * 2 * 8 * 4  # keys and values, two heads of eight, float32
    short = LENGTH - TOKENS + 4
    expected = [4 * LENGTH, 4 * short, 2 * LENGTH + 2 * short, 4 * short]
    assert [row.cache_bytes for row in group.rows] == [layers * token for layers in expected]


def test_the_usual_layout_saves_the_share_of_the_cache_that_the_paper_reports() -> None:
    shape = find_shape("llava-1.5-7b").scaled(parse_size("128/4"))
    model = build(shape, device=torch.device("cpu"), dtype=torch.float32)
    inputs = random_prompt(model, shape.picture, before=36, after=40)
    group = measure(model, inputs, [FastV(keep=128)], rounds=1, new_tokens=(1,))
    assert round(1 - group.rows[-1].cache_bytes / group.rows[0].cache_bytes, 3) == 0.687


def test_operations_are_those_of_the_formula() -> None:
    model = tiny_llava()
    group = measure(model, prompt(model), [FastV(keep=4)], rounds=1, new_tokens=(1,))
    text = model.config.text_config
    width, inner, keys = text.hidden_size, text.intermediate_size, text.hidden_size // 2  # half as many key heads as heads
    layer = 2 * width * (2 * width + 2 * keys) + 6 * width * inner

    def decoder(queries: int, seen: int, layers: int) -> int:
        return layers * (queries * layer + 4 * queries * seen * width)

    head, short = 2 * width * text.vocab_size, LENGTH - TOKENS + 4
    full, start, late, method = group.rows
    expected = {
        full.flops["prefill"]: decoder(LENGTH, LENGTH, 4) + head,
        full.flops["decode"]: decoder(1, LENGTH + 1, 4) + head,
        start.flops["prefill"]: decoder(short, short, 4) + head,
        late.flops["prefill"]: decoder(LENGTH, LENGTH, 2) + decoder(short, short, 2) + head,
        start.flops["decode"]: decoder(1, short + 1, 4) + head,
    }
    for counted, formula in expected.items():
        assert counted == pytest.approx(formula, rel=2e-4)  # older transformers make rotary angles by a product
    assert method.flops["decode"] == start.flops["decode"]
    assert method.flops["method"] == 2 * LENGTH * width  # the last query with every key
    assert full.flops["tower"] > 0
    assert full.kernels == method.kernels != ()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layer", [0, 2])
def test_the_ideal_computes_what_a_method_with_the_same_tokens_computes(layer: int, attention: str) -> None:
    model = tiny_llava(attention=attention)
    inputs = prompt(model, 2)
    kept = torch.linspace(0, TOKENS - 1, 4).round().long() + BEFORE
    columns = torch.cat([torch.arange(BEFORE), kept, torch.arange(BEFORE + TOKENS, LENGTH)])
    with torch.no_grad():
        with compress(model, Even(keep=4, layer=layer)):
            expected = model(**inputs, logits_to_keep=1).logits
        with ideal(model, columns, layer):
            found = model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ["qwen2-vl-2b", "qwen2.5-vl-3b", "qwen3-vl-8b", "internvl3-8b"])
def test_every_kind_of_shape_is_measured(name: str) -> None:
    shape = find_shape(name).scaled(parse_size("128/4"))
    side = 4 * shape.picture.pixels_per_token
    picture = shape.picture if shape.picture.layout == "square" else shape.picture.sized(2 * side, side)
    model = build(shape, device=torch.device("cpu"), dtype=torch.float32)
    inputs = random_prompt(model, picture, before=4, after=4, batch=2)
    group = measure(model, inputs, [Even(keep=6)], rounds=1, new_tokens=(1, 2))
    assert group.visual_tokens == picture.tokens
    assert [row.failed for row in group.rows] == [None] * 4
    full, start, late, method = (row.flops["prefill"] for row in group.rows)
    assert start < late == method < full


def test_a_tower_that_adds_features_after_layers_gives_the_same_ideal() -> None:
    shape = find_shape("qwen3-vl-8b").scaled(parse_size("128/4"))
    picture = shape.picture.sized(128, 128)
    model = build(shape, device=torch.device("cpu"), dtype=torch.float32)
    inputs = random_prompt(model, picture, before=4, after=4)
    kept = torch.linspace(0, 15, 4).round().long() + 4
    with torch.no_grad():
        with compress(model, Even(keep=4, layer=1)):
            expected = model(**inputs, logits_to_keep=1).logits
        with ideal(model, torch.cat([torch.arange(4), kept, torch.arange(20, 24)]), 1):
            found = model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(found, expected)


def test_rows_of_a_batch_differ_so_that_no_plan_is_shared() -> None:
    model = tiny_llava()
    inputs = prompt(model, 3)
    assert len({tuple(row.tolist()) for row in inputs["input_ids"]}) == 3
    assert len({float(pixels.sum()) for pixels in inputs["pixel_values"]}) == 3


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_llava()
    inputs = prompt(model)
    with torch.no_grad():
        before = model(**inputs).logits
    attributes, hooks = (set(model.__dict__), set(model.model.__dict__)), hooks_of(model)
    measure(model, inputs, [TokenCarve(keep=4)], rounds=1, new_tokens=(1, 2))
    assert (set(model.__dict__), set(model.model.__dict__)) == attributes
    assert hooks_of(model) == hooks
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, before, rtol=0, atol=0)


@pytest.mark.parametrize(("method", "error"), [(FastV(keep=TOKENS + 1), BudgetError), (FastV(keep=4, layer=4), LayerError)], ids=str)
def test_what_does_not_fit_is_refused_before_anything_is_timed(method: Method, error: type[Exception]) -> None:
    model, runs = tiny_llava(), []
    with pytest.raises(error):
        measure(model, prompt(model), [FastV(keep=4), method], rounds=1, progress=lambda: runs.append(1))
    assert not runs


def test_a_row_that_runs_out_of_memory_is_marked_and_the_others_continue() -> None:
    model = tiny_llava()
    group = measure(model, prompt(model), [Exhausting(keep=4), FastV(keep=4)], rounds=2)
    failed = {row.name: row.failed for row in group.rows if row.failed}
    assert failed == {"Exhausting(keep=4)": "out of memory"}
    assert group.rounds == 2
    assert figures(group, group.row("Exhausting(keep=4)")) == {}
    assert "over_ideal" in figures(group, group.row("FastV(keep=4)"))


def test_an_interrupted_measurement_keeps_whole_rounds_and_resumes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, saved, runs = tiny_llava(), [], []
    inputs, timed = prompt(model), speed._time

    def interrupted(*args: object) -> Timing:
        runs.append(1)
        if len(runs) == 6:
            raise KeyboardInterrupt
        return timed(*args)

    monkeypatch.setattr(speed, "_time", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure(model, inputs, [FastV(keep=4)], rounds=3, after_round=lambda group: saved.append(copy.deepcopy(group)))
    assert [group.rounds for group in saved] == [1]
    path = tmp_path / "run.json"
    Run({}, "", {}, {}, [saved[0]]).save(path)
    group = measure(model, inputs, [FastV(keep=4)], rounds=3, group=Run.load(path).groups[0])
    assert group.rounds == 3
    assert [row.timings[0] for row in group.rows] == [row.timings[0] for row in saved[0].rows]
    with pytest.raises(InputError, match="other rows"):
        measure(model, inputs, [TokenCarve(keep=4)], rounds=4, group=group)


def test_the_number_of_runs_is_known_in_advance() -> None:
    model, runs = tiny_llava(), []
    methods = [FastV(keep=4), TokenCarve(keep=4), FastV(keep=8, layer=0)]
    measure(model, prompt(model), methods, rounds=2, progress=lambda: runs.append(1))
    assert len(runs) == speed.runs_before(2, methods, TOKENS)


def timing(prefill: float, method: float = 0.0) -> Timing:
    return Timing(1.0, prefill, method, {1: 1 + prefill, 3: 3 + prefill})


def synthetic() -> Group:
    """Three rounds on a machine that slows down; the method takes half as long as the full model in each."""
    rows = [
        Row(FULL, "full", 16, timings=[timing(2), timing(4), timing(8)]),
        Row("ideal", "ideal", 4, timings=[timing(0.8), timing(1.6), timing(3.2)]),
        Row("method", "method", 4, rival="ideal", timings=[timing(1, 0.1), timing(2, 0.2), timing(4, 0.4)]),
    ]
    return Group(2, 27, 16, rows)


def test_ratios_are_formed_within_rounds_so_that_drift_cancels() -> None:
    group = synthetic()
    found = figures(group, group.rows[2])
    for name, value in {"prefill_of_full": 0.5, "over_ideal": 0.25, "method_of_full_prefill": 0.05, "decode 3": 1.0}.items():
        figure = found[name]
        assert figure.low == pytest.approx(figure.median) == pytest.approx(figure.high) == pytest.approx(value)
    assert (found["prefill"].low, found["prefill"].median, found["prefill"].high) == (1.5, 2.0, 3.0)
    assert found["tokens_per_second 3"].median == pytest.approx(2 * 3 / 5)


def test_no_ratio_is_formed_between_different_attention_kernels() -> None:
    group = synthetic()
    group.rows[0].kernels = ("_scaled_dot_product_flash_attention",)
    found = figures(group, group.rows[2])
    assert not any("of_full" in name for name in found)
    assert "over_ideal" in found


def test_a_run_goes_to_json_and_back(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run = Run({"seed": 0}, "foveate bench", {"torch": "2"}, {"text": {"hidden_size": 32}}, [synthetic()])
    run.save(path)
    assert Run.load(path) == run
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]
    path.write_text("{}")
    with pytest.raises(InputError, match="has kind None"):
        Run.load(path)
