"""Methods of several stages: where the stages are, how many tokens each leaves, and what a whole run does."""

from __future__ import annotations

import math

import pytest
import torch
from methods_reference import decaying
from tiny import TOKENS, batch, prompt, tiny_llava

import foveate
from foveate import FastV, Method, PyramidDrop, SparseVLM, V2Drop
from foveate.errors import BudgetError, InputError, LayerError, OptionError, SignalError
from foveate.methods import load_method, parse_method, save_method
from foveate.view import View

STAGED: list[type[Method]] = [PyramidDrop, SparseVLM, V2Drop]


def layers_of(method: Method, layers: int) -> list[int]:
    return [stage.layer for stage in method.stages(layers)]


def through(method: Method, tokens: int, layers: int, frames: int = 1) -> list[int]:
    found = [tokens]
    for stage in method.stages(layers):
        found.append(stage.remaining(found[-1], frames, tokens))
    return found


def test_stages_are_where_the_papers_have_them() -> None:
    assert layers_of(PyramidDrop(keep=72), 32) == [8, 16, 24]
    assert layers_of(V2Drop(keep=72), 32) == [3, 17, 22]
    assert layers_of(SparseVLM(keep=72), 32) == [3, 7, 16]
    assert layers_of(PyramidDrop(keep=72), 28) == [7, 14, 21]


def test_stages_that_would_share_a_layer_are_one_and_none_is_too_early() -> None:
    assert layers_of(PyramidDrop(keep=3), 4) == [2, 3]
    assert layers_of(PyramidDrop(keep=3, layer=1), 4) == [1, 2, 3]
    assert layers_of(SparseVLM(keep=3), 4) == [2]
    assert layers_of(PyramidDrop(keep=3, layer=11), 12) == [11]
    assert layers_of(PyramidDrop(keep=3, at=(16, 8, 0.75)), 32) == [8, 16, 24]
    assert layers_of(FastV(keep=3), 4) == [2]


def test_half_of_the_tokens_leave_at_each_stage_of_the_paper() -> None:
    # lambda = 0.5 and three cuts: an eighth remains.
    assert through(PyramidDrop(keep=0.125), 576, 32) == [576, 288, 144, 72]
    assert through(PyramidDrop(keep=72), 576, 32) == [576, 288, 144, 72]
    # The cube root of 64 / 576 is 0.4807.
    assert through(PyramidDrop(keep=64), 576, 32) == [576, 277, 133, 64]


@pytest.mark.parametrize("kind", STAGED)
@pytest.mark.parametrize("layers", [3, 4, 8, 32])
def test_the_budget_is_exact_after_the_last_stage_and_never_rises(kind: type[Method], layers: int) -> None:
    for tokens in (1, 2, 7, 100, 578):
        for keep in sorted({1, 2, tokens // 3, tokens - 1, tokens} & set(range(1, tokens + 1))):
            found = through(kind(keep), tokens, layers)
            assert found[-1] == keep
            assert found == sorted(found, reverse=True)
        for share in (0.01, 0.25, 0.5, 0.9, 1.0):
            found = through(kind(share), tokens, layers)
            assert found[-1] == max(1, math.floor(share * tokens + 0.5)) == foveate.tokens_after(kind(share), [(1, 1, tokens)])[0]
            assert found == sorted(found, reverse=True)
    assert through(kind(3), 40, layers, frames=4)[-1] == 12 == foveate.tokens_after(kind(3), [(4, 2, 5)])[0]


def test_a_share_is_one_of_the_image_also_after_another_method() -> None:
    schedule = [FastV(keep=0.5, layer=1), PyramidDrop(keep=0.25)]
    assert foveate.tokens_after(schedule, [(1, 24, 24)]) == [144]
    # What an earlier method left is the most that can remain.
    assert foveate.tokens_after([FastV(keep=9, layer=1), PyramidDrop(keep=0.25)], [(1, 24, 24)]) == [9]


def test_more_tokens_than_there_are_need_clamp() -> None:
    with pytest.raises(BudgetError, match="keep=600"):
        foveate.tokens_after(PyramidDrop(keep=600), [(1, 24, 24)])
    assert through(PyramidDrop(keep=600, clamp=True), 576, 32) == [576] * 4
    model = tiny_llava()
    with foveate.compress(model, PyramidDrop(keep=600), clamp=True) as handle, torch.no_grad():
        model(**batch([prompt(3, "image", 5)]))
    assert handle.report.tokens_after == TOKENS


@pytest.mark.parametrize("at", [(), (0.0,), (1.0,), (-1,), (True,), ("8",), 8, (math.nan,)])
def test_places_that_are_no_layers_are_refused(at: object) -> None:
    with pytest.raises(OptionError, match="at="):
        PyramidDrop(keep=3, at=at)  # type: ignore[arg-type]


def test_layers_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(LayerError, match=r"at=\(2, 9\).*layer 9; this model has decoder layers 0..3"):
        foveate.compress(tiny_llava(), PyramidDrop(keep=3, at=(2, 9)))
    with pytest.raises(LayerError, match=r"layer=4 .*decoder layers 0..3"):
        foveate.compress(tiny_llava(), V2Drop(keep=3, layer=4))
    with pytest.raises(SignalError, match="earlier_states of the layer before its own, and layer=0"):
        foveate.compress(tiny_llava(), V2Drop(keep=3, layer=0, at=(0, 2)))
    with pytest.raises(LayerError, match="layers of a schedule must increase"):
        foveate.compress(tiny_llava(), [PyramidDrop(keep=5), FastV(keep=3, layer=2)])


def test_the_report_names_every_stage() -> None:
    model = tiny_llava(layers=8)
    with foveate.compress(model, PyramidDrop(keep=2)) as handle, torch.no_grad():
        model(**batch([prompt(3, "image", 5)]))
    stages = handle.report.images[0].stages
    assert [(stage.layer, stage.plan.tokens_after) for stage in stages] == [(2, 8), (4, 4), (6, 2)]
    assert [stage.method for stage in stages][1:] == [
        "PyramidDrop(keep=2, layer=4), stage 2 of 3",
        "PyramidDrop(keep=2, layer=6), stage 3 of 3",
    ]
    assert foveate.Report.from_dict(handle.report.to_dict()).images[0].plan == handle.report.images[0].plan


def test_places_come_back_from_text_and_files(tmp_path) -> None:  # noqa: ANN001
    method = parse_method("pyramiddrop:at=(8, 0.5),keep=64")
    assert method == PyramidDrop(keep=64, at=(8, 0.5)) == PyramidDrop(keep=64, at=[8, 0.5])  # type: ignore[arg-type]
    save_method(method, tmp_path / "method.yaml")
    assert load_method(tmp_path / "method.yaml") == method


def test_v2drop_keeps_what_the_layer_before_moved_most() -> None:
    states = torch.tensor([[1.0, 0], [3, 4], [0, 0], [6, 8], [2, 0]])
    earlier = torch.tensor([[0.0, 0], [3, 3], [0, 3], [6, 8], [2, 1]])
    # Distances: 1, 1, 3, 0, 1.
    view = View(states, (1, 1, 5), earlier_states=earlier)
    assert V2Drop(keep=1).plan(view).kept.tolist() == [2]
    assert V2Drop(keep=3).plan(view).kept.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("n", "d"), [(7, 3), (30, 12)])
def test_v2drop_agrees_with_distances_in_loops(n: int, d: int) -> None:
    states, earlier = decaying(n, d, 0), decaying(n, d, 1)
    far = [math.dist(a, b) for a, b in zip(states.double().tolist(), earlier.double().tolist(), strict=True)]
    order = sorted(range(n), key=lambda token: (-far[token], token))
    for keep in range(1, n + 1):
        assert V2Drop(keep).plan(View(states, (1, 1, n), earlier_states=earlier)).kept.tolist() == sorted(order[:keep])


def test_pyramid_drop_keeps_what_the_next_layer_attends_to() -> None:
    view = View(decaying(5, 3, 0), (1, 1, 5), next_attention=torch.tensor([0.1, 0.3, 0.3, 0.0, 0.3]))
    assert [PyramidDrop(keep).plan(view).kept.tolist() for keep in (1, 2, 4)] == [[1], [1, 2], [0, 1, 2, 4]]
    with pytest.raises(InputError, match="next_attention contains NaN"):
        PyramidDrop(2).plan(View(view.states, view.grid, next_attention=torch.full((5,), math.nan)))


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("kind", STAGED)
def test_a_batch_is_decided_for_as_its_rows_alone(kind: type[Method], padding: str) -> None:
    model = tiny_llava(layers=8)
    rows = [prompt(3, "image", 5), prompt(2, "image", 9, "image", 2, seed=1)]
    inputs = batch(rows, padding=padding)
    with foveate.compress(model, kind(keep=3)) as handle, torch.no_grad():
        model(**inputs)
        together = [image.stages for image in handle.report.images]
        alone = []
        for row, first, count in ((0, 0, 1), (1, 1, 2)):
            model(**batch([rows[row]]) | {"pixel_values": inputs["pixel_values"][first : first + count]})
            alone += [image.stages for image in handle.report.images]
    assert [[(s.layer, s.plan) for s in stages] for stages in together] == [[(s.layer, s.plan) for s in stages] for stages in alone]
    assert all(stages[-1].plan.tokens_after == 3 for stages in together)
