"""TokenCarve: its choice, its options and its ties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from methods_reference import decaying, slow_order, slow_scores, slow_target

import foveate.methods.tokencarve
from foveate.errors import BudgetError, InputError, SignalError
from foveate.methods import TokenCarve
from foveate.view import View

pytestmark = pytest.mark.one_version


def make(n: int, d: int, seed: int = 0) -> View:
    generator = torch.Generator().manual_seed(seed + 1)
    attention = torch.rand(n, generator=generator)
    return View(decaying(n, d, seed), (1, 1, n), last_attention=attention, attention_output=decaying(n, d, seed + 2))


def test_an_example_worked_out_by_hand() -> None:
    # The columns are orthogonal, so V is the identity and information is the L1 norm of each row: 5 5 2 3 3 1, which is
    # 6 5 2 4 3 1 points. Attention gives 3 4 6 1 5 2 points. Half their sum, times two: 9 9 8 5 8 3.
    # Stage one keeps floor(1.5 * 3) = 4 tokens: 0 and 1 are the better half, 2 and 4 the worse one; one of them is merged.
    # Token 2 is as near to 0 as to 1 (cosine 4 / sqrt(17) = 0.97), so it goes to 0; token 4's best is 6 / sqrt(85) = 0.65.
    states = torch.tensor([[4.0, 1], [4, -1], [2, 0], [1, 2], [1, -2], [1, 0]])
    attention = torch.tensor([0.10, 0.20, 0.30, 0.05, 0.25, 0.08])
    plan = TokenCarve(keep=3).plan(View(states, (1, 2, 3), last_attention=attention))
    assert plan.to_list() == [0, 1, 0, -1, 4, -1]
    assert plan.merge(states).tolist() == [[3.0, 0.5], [4.0, -1.0], [1.0, -2.0]]


@pytest.mark.parametrize("weight", [0, 0.3, 0.5, 0.7, 1])
@pytest.mark.parametrize("stage_one", [1, 1.1, 1.5, 2])
@pytest.mark.parametrize(("n", "d"), [(1, 4), (2, 4), (7, 3), (12, 30), (30, 12)])
def test_it_agrees_with_a_slow_reference_for_every_budget(n: int, d: int, stage_one: float, weight: float) -> None:
    view = make(n, d, seed=n)
    assert view.last_attention is not None
    order = slow_order(slow_scores(view.states.numpy(), view.last_attention.numpy(), weight))
    for keep in range(1, n + 1):
        plan = TokenCarve(keep, attention_weight=weight, stage_one=stage_one).plan(view)
        assert plan.to_list() == slow_target(view.states.numpy(), order, keep, stage_one), keep


def test_equal_tokens_are_taken_from_the_first_on() -> None:
    states = decaying(1, 8, 0).expand(9, 8).clone()
    view = View(states, (1, 3, 3), last_attention=torch.full((9,), 0.1))
    # Stage one keeps 0..5; of the worse half 3..5 the first two go to the first token of the better half.
    assert TokenCarve(keep=4).plan(view).to_list() == [0, 1, 2, 0, 0, 5, -1, -1, -1]
    assert TokenCarve(keep=4, stage_one=1).plan(view).kept.tolist() == [0, 1, 2, 3]


def test_equal_sums_of_ranks_are_equal_at_any_weight() -> None:
    # In floats, 0.7 * 1 + 0.3 * 8 and 0.7 * 4 + 0.3 * 1 differ in the last bit; both are 3.1.
    assert 0.7 * 1 + (1 - 0.7) * 8 != 0.7 * 4 + (1 - 0.7) * 1
    points = torch.tensor([1, 8, 4, 5, 3, 6, 2, 7]), torch.tensor([8, 7, 1, 6, 5, 4, 3, 2])
    states = torch.diag(points[1].double())
    view = View(states, (1, 2, 4), last_attention=points[0].float())
    method = TokenCarve(keep=2, attention_weight=0.7)
    score = method._score([view], [method._information({0: view})[0]])[0]
    assert score[0] == score[2]


def test_attention_alone_computes_no_information(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("information was computed")

    monkeypatch.setattr(foveate.methods.tokencarve, "information_contributions", refuse)
    assert TokenCarve(keep=5, attention_weight=1).plan(make(20, 8)).tokens_after == 5
    with pytest.raises(AssertionError):
        TokenCarve(keep=5).plan(make(20, 8))


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, {"last_attention"}),
        ({"attention_weight": 0}, set()),
        ({"attention_weight": 1}, {"last_attention"}),
        ({"source": "attention_output"}, {"last_attention", "attention_output"}),
        ({"source": "attention_output", "attention_weight": 0}, {"attention_output"}),
        ({"source": "attention_output", "attention_weight": 1}, {"last_attention"}),
    ],
)
def test_it_asks_for_the_signals_that_it_reads_and_no_others(options: dict[str, Any], needs: set[str]) -> None:
    method, full = TokenCarve(keep=5, **options), make(20, 8)
    assert method.needs == needs
    signals = {name: getattr(full, name) for name in needs}
    assert method.plan(View(full.states, full.grid, **signals)) == method.plan(full)
    for missing in needs:
        with pytest.raises(SignalError, match=missing):
            method.plan(View(full.states, full.grid, **{name: value for name, value in signals.items() if name != missing}))


def test_the_attention_output_ranks_and_the_hidden_states_merge() -> None:
    view = make(20, 8)
    assert view.attention_output is not None
    method = TokenCarve(keep=8, attention_weight=0, source="attention_output")
    order = slow_order(slow_scores(view.attention_output.numpy(), torch.zeros(20).numpy(), 0))
    assert method.plan(view).to_list() == slow_target(view.states.numpy(), order, 8)


def test_images_of_equal_shape_share_one_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    original = torch.linalg.eigh

    def spy(matrix: np.ndarray) -> Any:
        shapes.append(matrix.shape)
        return original(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", spy)
    views = [make(20, 8, 0), make(12, 8, 1), make(20, 8, 2), make(6, 8, 3), make(20, 8, 4)]
    TokenCarve(keep=6).plans(views)
    # The image of six tokens keeps all of them and needs none.
    assert sorted(shapes) == [(1, 8, 8), (3, 8, 8)]


@pytest.mark.parametrize("order", ["same", "reversed"])
def test_a_batch_is_planned_as_its_images_one_by_one(order: str) -> None:
    views = [make(n, d, seed) for seed, (n, d) in enumerate([(20, 8), (12, 30), (20, 8), (9, 30), (12, 30), (20, 8)])]
    views = views[::-1] if order == "reversed" else views
    for information in ("exact", "fast"):
        method = TokenCarve(keep=9, information=information)  # type: ignore[arg-type]
        assert method.plans(views) == [method.plan(view) for view in views]
    assert TokenCarve(keep=9).plans([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention_weight": 1.2}, r"attention_weight=1.2 must be a number in \[0, 1\]"),
        ({"attention_weight": -0.1}, "0 ranks by information alone"),
        ({"attention_weight": float("nan")}, "attention_weight=nan"),
        ({"attention_weight": True}, "attention_weight=True"),
        ({"stage_one": 0.9}, r"stage_one=0.9 must be a number in \[1, 2\]"),
        ({"stage_one": 2.5}, "above 2 the better half"),
        ({"stage_one": "2"}, "stage_one='2'"),
        ({"source": "keys"}, "source='keys' is not known; choose 'hidden' or 'attention_output'"),
        ({"information": "quick"}, "information='quick' is not known; choose 'auto' or 'exact' or 'fast'"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenCarve(keep=5, **options)


def test_budgets_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(BudgetError, match="keep=21"):
        TokenCarve(keep=21).plan(make(20, 8))
    assert TokenCarve(keep=21, clamp=True).plan(make(20, 8)).is_identity


def test_nan_has_no_order() -> None:
    view = make(20, 8)
    assert view.last_attention is not None
    broken = View(view.states, view.grid, last_attention=view.last_attention.clone().fill_(float("nan")))
    with pytest.raises(InputError, match="last_attention contains NaN"):
        TokenCarve(keep=5).plan(broken)
    states = view.states.clone()
    states[3, 2] = float("nan")
    with pytest.raises(InputError, match="NaN or infinity"):
        TokenCarve(keep=5).plan(View(states, view.grid, last_attention=view.last_attention))


def test_a_video_keeps_its_budget_per_frame_times_frames_wherever_it_likes() -> None:
    attention = torch.cat([torch.zeros(6), torch.ones(6)]) + torch.arange(12) / 100
    view = View(decaying(12, 8, 0), (2, 2, 3), last_attention=attention)
    plan = TokenCarve(keep=3, attention_weight=1, stage_one=1).plan(view)
    assert plan.kept.tolist() == [6, 7, 8, 9, 10, 11]
