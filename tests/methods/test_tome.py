"""ToMe against an example worked out by hand, and against its rounds in loops."""

from __future__ import annotations

import math

import pytest
import torch
from merging_reference import slow_tome
from methods_reference import decaying
from torch import Tensor

from foveate.errors import InputError
from foveate.methods import ToMe
from foveate.view import View

pytestmark = pytest.mark.one_version


def view_of(states: Tensor) -> View:
    return View(states, (1, 1, len(states)))


def test_an_example_worked_out_by_hand() -> None:
    states = torch.tensor([[1.0, 0], [3, 0], [0, 2], [0, 1], [3, 1], [-1, 0]])
    # 0 2 4 look among 1 3 5: 0 finds 1 (cosine 1), 2 finds 3 (1), 4 finds 1 (0.95). At most three go in a round.
    assert ToMe(5).plan(view_of(states)).to_list() == [1, 1, 2, 3, 4, 5]
    assert ToMe(4).plan(view_of(states)).to_list() == [1, 1, 3, 3, 4, 5]
    plan = ToMe(3).plan(view_of(states))
    assert plan.to_list() == [1, 1, 3, 3, 1, 5]
    assert plan.merge(states)[0].tolist() == pytest.approx([7 / 3, 1 / 3])
    # Next, 1 and 5 look at 3: 1 (a mean of (7, 1) / 3) is nearer than 5 and goes, with all that it took in.
    assert ToMe(2).plan(view_of(states)).to_list() == [3, 3, 3, 3, 3, 5]
    assert ToMe(1).plan(view_of(states)).tokens_after == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 2), (20, 5), (33, 12)])
def test_it_agrees_with_its_rounds_for_every_budget(n: int, d: int, dtype: torch.dtype) -> None:
    states = decaying(n, d, seed=n + d).to(dtype)
    for keep in range(1, n):
        assert ToMe(keep).plan(view_of(states)).to_list() == slow_tome(states.double().numpy(), keep), keep


def test_nothing_is_dropped_and_copies_merge_first() -> None:
    different = decaying(12, 8, 3)
    states = different.repeat_interleave(2, dim=0)
    plan = ToMe(12).plan(view_of(states))
    assert plan.dropped.numel() == 0
    assert torch.allclose(plan.merge(states), different)


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would.
    views = [view_of(decaying(30, 9, seed)) for seed in range(3)]
    assert ToMe(7)._decided(views, 7) == ToMe(7).plans(views)


def test_a_later_layer_compares_what_the_tower_gave() -> None:
    states, features = decaying(20, 9, 0), decaying(20, 9, 1)
    assert ToMe(6).needs == frozenset()
    assert ToMe(6, layer=3).needs == {"projected_states"}
    plan = ToMe(6, layer=3).plan(View(states, (1, 4, 5), projected_states=features))
    assert plan == ToMe(6).plan(view_of(features)) != ToMe(6).plan(view_of(states))


def test_features_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinity, so ToMe cannot compare its tokens"):
        ToMe(5).plan(view_of(decaying(20, 9, 0).fill_(math.nan)))
