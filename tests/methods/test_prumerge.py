"""PruMerge against an example worked out by hand, and against its steps in loops."""

from __future__ import annotations

import math

import pytest
import torch
from merging_reference import slow_prumerge
from methods_reference import decaying
from torch import Tensor

from foveate.errors import InputError, SignalError
from foveate.methods import PruMerge, TowerAttention
from foveate.view import View

pytestmark = pytest.mark.one_version


def view_of(states: Tensor, attention: Tensor) -> View:
    return View(states, (1, 1, len(states)), tower_attention=attention)


def heavy_tailed(n: int, seed: int = 0) -> Tensor:
    """Attention with some outliers."""
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).mul(1.5).exp() / n


def test_an_example_worked_out_by_hand() -> None:
    states = torch.tensor([[1.0, 0], [4, 1], [0, 1], [1, 4], [0, 2], [3, 0], [1, 5], [5, 1]])
    # Quartiles 1 and 3.5: the fence is at 7.25, and tokens 4 and 7 lie above it.
    attention = torch.tensor([1.0, 1, 2, 1, 9, 2, 1, 8])
    # One of the six others: the middle one of 0 1 2 3 5 6 is 2. What points to the right joins 7, what points upwards 2 or 4.
    plan = PruMerge(3).plan(view_of(states, attention))
    assert plan.to_list() == [7, 7, 2, 2, 4, 7, 2, 7]
    assert plan.merge(states)[2].tolist() == pytest.approx([13 / 4, 2 / 4])
    # Two fit: both outliers. One fits: that of more attention.
    assert PruMerge(2).plan(view_of(states, attention)).kept.tolist() == [4, 7]
    assert PruMerge(1).plan(view_of(states, attention)).to_list() == [4] * 8


@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 2), (20, 5), (40, 12)])
def test_it_agrees_with_its_steps_for_every_budget(n: int, d: int) -> None:
    states, attention = decaying(n, d, seed=n + d), heavy_tailed(n)
    for keep in range(1, n):
        expected = slow_prumerge(states.double().numpy(), attention.double().tolist(), keep)
        assert PruMerge(keep).plan(view_of(states, attention)).to_list() == expected, keep


def test_without_outliers_tokens_are_evenly_spaced() -> None:
    plan = PruMerge(4).plan(view_of(decaying(32, 9, 0), torch.full((32,), 1 / 32)))
    assert plan.kept.diff().tolist() == [8, 8, 8]


def test_outliers_alone_are_the_tokens_with_the_most_attention() -> None:
    states, attention = decaying(60, 9, 0), torch.cat([torch.ones(50), torch.arange(2.0, 12)])
    assert torch.equal(PruMerge(8).plan(view_of(states, attention)).kept, TowerAttention(8).plan(view_of(states, attention)).kept)


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would. The numbers of outliers differ.
    views = [view_of(decaying(30, 9, seed), heavy_tailed(30, seed)) for seed in range(4)]
    assert PruMerge(11)._decided(views, 11) == PruMerge(11).plans(views)


def test_what_it_cannot_do_without_is_named() -> None:
    states, attention = decaying(20, 9, 0), heavy_tailed(20)
    assert PruMerge(6).needs == {"tower_attention"}
    assert PruMerge(6, layer=2).needs == {"tower_attention", "projected_states"}
    with pytest.raises(SignalError, match="tower_attention"):
        PruMerge(6).plan(View(states, (1, 4, 5)))
    with pytest.raises(InputError, match="tower_attention contains NaN"):
        PruMerge(5).plan(view_of(states, attention.clone().fill_(math.nan)))
    with pytest.raises(InputError, match="NaN or infinity, so PruMerge cannot compare its tokens"):
        PruMerge(5).plan(view_of(states.clone().fill_(math.inf), attention))
