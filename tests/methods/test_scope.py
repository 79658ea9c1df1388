"""Scope against an example worked out by hand, and against the paper's algorithm in loops."""

from __future__ import annotations

import math

import pytest
import torch
from methods_reference import cosine, decaying
from torch import Tensor

import foveate.methods.scope
from foveate.errors import InputError, OptionError, SignalError
from foveate.methods import Scope
from foveate.view import View

pytestmark = pytest.mark.one_version


def view_of(states: Tensor, attention: Tensor) -> View:
    return View(states, (1, 1, len(states)), tower_attention=attention)


def attention_of(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) / n


def slow_scope(features: Tensor, attention: Tensor, keep: int, alpha: float = 1.0) -> list[int]:
    """The tokens in the order in which algorithm 1 of the paper takes them, in loops; scores equal to 9 digits are equal."""
    rows, weights = features.double().numpy(), attention.double().tolist()
    n = len(rows)
    covered = [0.0] * n
    chosen: list[int] = []
    while len(chosen) < keep:
        best, highest = -1, -math.inf
        for v in range(n):
            if v in chosen:
                continue
            gain = 0.0
            for u in range(n):
                gain += max(cosine(rows[u], rows[v]), covered[u]) - covered[u]
            score = round(gain, 9) * weights[v] ** alpha
            if score > highest:
                best, highest = v, score
        chosen.append(best)
        for u in range(n):
            covered[u] = max(covered[u], cosine(rows[u], rows[best]))
    return chosen


def test_an_example_worked_out_by_hand() -> None:
    # Tokens 0, 1 and 2 point to the right, 4 upwards, 5 to the left; 3 has cosine 0.6 with the first three and 0.8 with 4.
    states = torch.tensor([[2.0, 0], [1, 0], [3, 0], [3, 4], [0, 1], [-5, 0]])
    attention = torch.tensor([0.1, 0.3, 0.1, 0.2, 0.3, 0.1])
    # Gains 3.6 3.6 3.6 3.6 1.8 1, times attention 0.36 1.08 0.36 0.72 0.54 0.1: token 1. It covers 0 to 2 wholly and 0.6 of 3.
    # Gains 0 - 0 1.2 1.2 1, times attention 0 - 0 0.24 0.36 0.1: token 4, which covers 0.8 of 3 and itself.
    # Gains 0 - 0 0.2 - 1, times attention 0 - 0 0.04 - 0.1: token 5. Then 3, and 0 before 2 because neither gains anything.
    order = [1, 4, 5, 3, 0, 2]
    for keep in range(1, 7):
        assert Scope(keep).plan(view_of(states, attention)).kept.tolist() == sorted(order[:keep])
    assert Scope(2).plan(view_of(states, attention)).to_list() == [-1, 1, -1, -1, 4, -1]


@pytest.mark.parametrize("alpha", [0, 0.5, 1.0, 2])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 2), (16, 5), (12, 30)])
def test_it_agrees_with_the_papers_algorithm_for_every_budget(n: int, d: int, alpha: float) -> None:
    states, attention = decaying(n, d, seed=n + d), attention_of(n)
    order = slow_scope(states, attention, n, alpha)
    for keep in range(1, n + 1):
        plan = Scope(keep, alpha=alpha).plan(view_of(states, attention))
        assert plan.kept.tolist() == sorted(order[:keep]), keep


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_it_agrees_with_the_papers_algorithm_for_every_precision(dtype: torch.dtype) -> None:
    states, attention = decaying(20, 9, 0).to(dtype), attention_of(20).to(dtype)
    assert Scope(8).plan(view_of(states, attention)).kept.tolist() == sorted(slow_scope(states, attention, 8))


def test_copies_of_a_token_come_last_and_from_the_first_on() -> None:
    states, attention = decaying(6, 8, 3)[[0, 0, 1, 2, 1, 3, 4, 0, 5, 5]], torch.full((10,), 0.1)
    assert Scope(6).plan(view_of(states, attention)).kept.tolist() == [0, 2, 3, 5, 6, 8]
    assert Scope(8).plan(view_of(states, attention)).kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 8]
    assert Scope(3).plan(view_of(states[:1].expand(9, 8), attention[:9])).kept.tolist() == [0, 1, 2]


def test_tokens_that_nobody_attends_to_are_taken_last() -> None:
    states, attention = decaying(10, 8, 3), torch.tensor([0.0, 0, 1, 0, 1, 0, 0, 0, 0, 1])
    assert Scope(5).plan(view_of(states, attention)).kept.tolist() == [0, 1, 2, 4, 9]


def test_attention_counts_the_more_the_higher_its_exponent() -> None:
    states, attention = decaying(60, 8, 3), attention_of(60)
    best = set(attention.argsort(descending=True)[:12].tolist())
    found = [len(best & set(Scope(12, alpha=alpha).plan(view_of(states, attention)).kept.tolist())) for alpha in (0, 1, 10)]
    assert found[0] < found[1] < found[2]


def test_coverage_alone_needs_no_attention() -> None:
    states = decaying(20, 9, 0)
    assert Scope(6, alpha=0).needs == frozenset()
    assert Scope(6).needs == {"tower_attention"}
    assert Scope(6, layer=2).needs == {"tower_attention", "projected_states"}
    assert Scope(6, alpha=0).plan(View(states, (1, 4, 5))).kept.tolist() == sorted(slow_scope(states, torch.ones(20), 6, 0))
    with pytest.raises(SignalError, match="tower_attention"):
        Scope(6).plan(View(states, (1, 4, 5)))


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would.
    views = [view_of(decaying(30, 9, seed), attention_of(30, seed)) for seed in range(3)]
    assert Scope(11)._decided(views, 11) == Scope(11).plans(views)


def test_frames_and_crops_are_one_set_of_tokens() -> None:
    states, attention = decaying(24, 9, 0), attention_of(24)
    alone = sorted(slow_scope(states, attention, 8))
    assert Scope(4).plan(View(states, (2, 3, 4), kind="video", tower_attention=attention)).kept.tolist() == alone
    parts = ((1, 3, 4), (1, 4, 3))
    assert Scope(8).plan(View(states, (1, 1, 24), parts=parts, tower_attention=attention)).kept.tolist() == alone


def test_what_cannot_be_ranked_is_refused() -> None:
    states, attention = decaying(20, 9, 0), attention_of(20)
    broken = states.clone()
    broken[3, 2] = math.nan
    with pytest.raises(InputError, match="NaN or infinity, so Scope cannot compare its tokens"):
        Scope(5).plan(view_of(broken, attention))
    with pytest.raises(InputError, match="tower_attention contains NaN"):
        Scope(5).plan(view_of(states, attention.clone().fill_(math.nan)))


def test_more_tokens_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foveate.methods.scope, "MOST", 19)
    with pytest.raises(InputError, match=r"20 are too many.*the limit is 19: .*or use DivPrune"):
        Scope(5).plan(view_of(decaying(20, 9, 0), attention_of(20)))
    assert Scope(5).plan(view_of(decaying(19, 9, 0), attention_of(19))).tokens_after == 5


@pytest.mark.parametrize("alpha", [-0.1, 11, math.nan, math.inf, True, "1", None])
def test_an_exponent_outside_its_range_is_refused(alpha: object) -> None:
    with pytest.raises(OptionError, match=r"alpha=.* must be a number in \[0, 10\]; 0 decides by coverage alone"):
        Scope(5, alpha=alpha)  # type: ignore[arg-type]
