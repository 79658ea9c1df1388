"""FastV and Random."""

from __future__ import annotations

import pytest
import torch

from foveate.errors import InputError, SignalError
from foveate.methods import FastV, Random
from foveate.view import View

pytestmark = pytest.mark.one_version


def make(n: int, fingerprint: int = 0, dtype: torch.dtype = torch.float32) -> View:
    return View(torch.randn(n, 3).to(dtype), (1, 1, n), fingerprint=fingerprint)


def test_fastv_keeps_the_highest_attention_and_the_first_of_equals() -> None:
    attention = torch.tensor([0.1, 0.3, 0.2, 0.3, 0.2, 0.2])
    view = View(torch.zeros(6, 2), (1, 2, 3), last_attention=attention)
    assert [FastV(keep).plan(view).kept.tolist() for keep in (1, 2, 4)] == [[1], [1, 3], [1, 2, 3, 4]]
    assert FastV(2).plan(view).to_list() == [-1, 1, -1, 3, -1, -1]


def test_fastv_says_which_signal_is_missing() -> None:
    assert FastV(2).needs == {"last_attention"}
    with pytest.raises(SignalError, match="last_attention"):
        FastV(2).plan(make(6))


def test_fastv_refuses_nan() -> None:
    with pytest.raises(InputError, match="last_attention contains NaN"):
        FastV(1).plan(View(torch.zeros(3, 2), (1, 1, 3), last_attention=torch.tensor([0.1, float("nan"), 0.2])))


def test_random_depends_on_seed_fingerprint_and_length_only() -> None:
    plan = Random(10).plan(make(40))
    assert Random(10).plan(make(40, dtype=torch.bfloat16)) == plan
    assert Random(10, layer=0).plans([make(30), make(40), make(40)])[1:] == [plan, plan]
    others = [Random(10, seed=1).plan(make(40)), Random(10).plan(make(40, fingerprint=1)), Random(10, seed=-1).plan(make(40))]
    assert all(other != plan for other in others)
    assert Random(10).plan(make(41)).kept.tolist() != plan.kept.tolist()


def test_random_neither_reads_nor_moves_the_global_random_state() -> None:
    view = make(40)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    plan = Random(10).plan(view)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(7)
    assert Random(10).plan(view) == plan


def test_random_is_the_same_on_every_machine() -> None:
    assert Random(4, seed=3).plan(make(12, fingerprint=5)).kept.tolist() == [0, 2, 5, 6]


def test_a_smaller_random_budget_is_part_of_a_larger_one() -> None:
    view = make(40)
    small, large = (set(Random(keep).plan(view).kept.tolist()) for keep in (10, 20))
    assert small < large


def test_random_is_fair_to_every_token() -> None:
    counts = torch.zeros(20)
    for fingerprint in range(500):
        counts[Random(5).plan(make(20, fingerprint)).kept] += 1
    assert int(counts.min()) > 90
    assert int(counts.max()) < 160


@pytest.mark.parametrize("seed", [1.5, "0", None, True])
def test_a_seed_that_is_no_integer_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="must be an integer, such as seed=0"):
        Random(5, seed=seed)  # type: ignore[arg-type]
