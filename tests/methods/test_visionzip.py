"""VisionZip against an example worked out by hand, and against its steps in loops."""

from __future__ import annotations

import math

import pytest
import torch
from merging_reference import slow_visionzip
from methods_reference import decaying
from torch import Tensor

from foveate.errors import InputError, OptionError, SignalError
from foveate.methods import TowerAttention, VisionZip
from foveate.view import View

pytestmark = pytest.mark.one_version


def view_of(states: Tensor, attention: Tensor) -> View:
    return View(states, (1, 1, len(states)), tower_attention=attention)


def attention_of(n: int, seed: int = 0) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed)) / n


def test_an_example_worked_out_by_hand() -> None:
    states = torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, 3], [4, 1], [1, 4]])
    attention = torch.tensor([0.1, 0.1, 0.4, 0.1, 0.1, 0.2])
    # Token 2 is dominant. Of 0 1 3 4 5, every second becomes contextual: 0 and 3. 4 points to the right, 1 and 5 upwards.
    plan = VisionZip(3, contextual=2 / 3).plan(view_of(states, attention))
    assert plan.to_list() == [0, 3, 2, 3, 0, 3]
    assert plan.merge(states)[2].tolist() == pytest.approx([1 / 3, 8 / 3])


@pytest.mark.parametrize("contextual", [0.0, 10 / 64, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 2), (20, 5), (30, 12)])
def test_it_agrees_with_its_steps_for_every_budget(n: int, d: int, contextual: float) -> None:
    states, attention = decaying(n, d, seed=n + d), attention_of(n)
    for keep in range(1, n):
        few = math.floor(contextual * keep + 0.5)
        expected = slow_visionzip(states.double().numpy(), attention.tolist(), keep - few, few)
        assert VisionZip(keep, contextual=contextual).plan(view_of(states, attention)).to_list() == expected, keep


def test_the_papers_split_is_the_default() -> None:
    states, attention = decaying(576, 12, 0), attention_of(576)
    for keep, dominant in ((64, 54), (128, 108), (192, 162)):
        plan = VisionZip(keep).plan(view_of(states, attention))
        best = set(TowerAttention(dominant).plan(view_of(states, attention)).kept.tolist())
        assert len(set(plan.kept.tolist()) - best) == keep - dominant
        assert plan.dropped.numel() == 0
        assert not best & set(plan.target[plan.merged].tolist())


def test_without_contextual_tokens_it_is_tower_attention() -> None:
    states, attention = decaying(30, 12, 0), attention_of(30)
    assert VisionZip(9, contextual=0.0).plan(view_of(states, attention)) == TowerAttention(9).plan(view_of(states, attention))


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would.
    views = [view_of(decaying(30, 9, seed), attention_of(30, seed)) for seed in range(3)]
    assert VisionZip(11)._decided(views, 11) == VisionZip(11).plans(views)


def test_it_needs_the_towers_attention_unless_all_is_contextual() -> None:
    assert VisionZip(6).needs == {"tower_attention"}
    assert VisionZip(6, layer=2).needs == {"tower_attention", "projected_states"}
    assert VisionZip(6, contextual=1).needs == frozenset()
    with pytest.raises(SignalError, match="tower_attention"):
        VisionZip(6).plan(View(decaying(20, 9, 0), (1, 4, 5)))


def test_what_cannot_be_ranked_is_refused() -> None:
    states, attention = decaying(20, 9, 0), attention_of(20)
    with pytest.raises(InputError, match="tower_attention contains NaN"):
        VisionZip(5).plan(view_of(states, attention.clone().fill_(math.nan)))
    with pytest.raises(InputError, match="NaN or infinity, so VisionZip cannot compare its tokens"):
        VisionZip(5).plan(view_of(states.clone().fill_(math.inf), attention))


@pytest.mark.parametrize("contextual", [-0.1, 1.1, math.nan, True, "1", None])
def test_a_share_outside_its_range_is_refused(contextual: object) -> None:
    with pytest.raises(OptionError, match=r"contextual=.* must be a share of the budget in \[0, 1\]"):
        VisionZip(5, contextual=contextual)  # type: ignore[arg-type]
