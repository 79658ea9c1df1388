"""CDPruner against an example worked out by hand, and against determinants computed as the paper writes them."""

from __future__ import annotations

import math

import pytest
import torch
from greedy_reference import slow_distinctiveness, slow_kernel, slow_largest_volume, slow_relevance
from methods_reference import decaying
from torch import Tensor

import foveate.methods.cdpruner
from foveate.errors import InputError, OptionError, SignalError
from foveate.methods import CDPruner
from foveate.view import View

pytestmark = pytest.mark.one_version


def view_of(states: Tensor, question: Tensor) -> View:
    return View(states, (1, 1, len(states)), question_states=question)


def slow_cdpruner(states: Tensor, question: Tensor, keep: int, relevance: float = 1.0, centred: bool = False) -> list[int]:
    rows = states.double().numpy()
    quality = slow_relevance(rows, question.double().numpy())
    if relevance == 0:
        quality = [1.0] * len(rows)
    elif relevance < 1:
        quality = [math.exp(relevance / (2 * (1 - relevance)) * (value - 1)) for value in quality]
    if centred:
        quality = [a * b for a, b in zip(quality, slow_distinctiveness(rows), strict=True)]
        rows = rows - rows.mean(0)
    return slow_largest_volume(slow_kernel(rows, quality), keep)


def test_an_example_worked_out_by_hand() -> None:
    # Tokens 0 and 1 are the same, 2 has cosine 0.6 with them, 3 is at a right angle to 0, and at 0.8 from 2.
    states = torch.tensor([[1.0, 0], [2, 0], [3, 4], [0, 5]])
    # The question's two tokens have cosines 1 1 0.6 0 and 0.6 0.6 1 0.8: means 0.8 0.8 0.8 0.4, relevance 1 1 1 0.
    question = torch.tensor([[1.0, 0], [3, 4]])
    # Equal and highest: 0, the lower index. Then 1 adds nothing, 2 adds 1 - 0.36, 3 nothing for want of relevance.
    assert [CDPruner(keep).plan(view_of(states, question)).kept.tolist() for keep in (1, 2, 3)] == [[0], [0, 2], [0, 1, 2]]
    # Without the question: 0, then 3 at a right angle, and two directions are all there are.
    alone = View(states, (1, 2, 2))
    assert [CDPruner(keep, relevance_weight=0).plan(alone).kept.tolist() for keep in (1, 2, 3)] == [[0], [0, 3], [0, 1, 3]]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("relevance", [0, 0.5, 1.0])
@pytest.mark.parametrize(("n", "d"), [(3, 3), (7, 12), (12, 30)])
def test_it_agrees_with_determinants_for_every_budget(n: int, d: int, relevance: float, centred: bool) -> None:
    states, question = decaying(n, d, seed=n + d), decaying(4, d, seed=1)
    most = min(n, d) - 1 - centred
    order = slow_cdpruner(states, question, most, relevance, centred)
    for keep in range(1, most + 1):
        plan = CDPruner(keep, relevance_weight=relevance, centred=centred).plan(view_of(states, question))
        assert plan.kept.tolist() == sorted(order[:keep]), keep


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_it_agrees_with_determinants_for_every_precision(dtype: torch.dtype) -> None:
    states, question = decaying(20, 30, 0).to(dtype), decaying(3, 30, 1).to(dtype)
    assert CDPruner(8).plan(view_of(states, question)).kept.tolist() == sorted(slow_cdpruner(states, question, 8))


def test_copies_of_a_token_come_last_and_from_the_first_on() -> None:
    states = decaying(6, 8, 3)[[0, 0, 1, 2, 1, 3, 4, 0, 5, 5]]
    view = View(states, (1, 2, 5))
    assert CDPruner(6, relevance_weight=0).plan(view).kept.tolist() == [0, 2, 3, 5, 6, 8]
    assert CDPruner(8, relevance_weight=0).plan(view).kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 8]


def test_more_tokens_than_directions_fill_the_budget_from_the_lowest_index_on() -> None:
    states = decaying(40, 3, 0)
    kept = CDPruner(30, relevance_weight=0).plan(View(states, (1, 5, 8))).kept.tolist()
    first = set(CDPruner(3, relevance_weight=0).plan(View(states, (1, 5, 8))).kept.tolist())
    assert kept == sorted({*first, *[token for token in range(40) if token not in first][:27]})


def test_the_question_decides_what_is_kept() -> None:
    states = decaying(60, 80, 3)
    kept = [CDPruner(10).plan(view_of(states, states[[token]])).kept.tolist() for token in (5, 50)]
    assert 5 in kept[0]
    assert 50 in kept[1]
    assert kept[0] != kept[1]


def test_a_question_that_every_token_answers_alike_leaves_diversity_alone() -> None:
    states = torch.cat([decaying(20, 9, 0), torch.zeros(20, 1)], 1)
    nothing = torch.zeros(2, 10)
    nothing[:, 9] = 1
    assert CDPruner(6).plan(view_of(states, nothing)) == CDPruner(6, relevance_weight=0).plan(view_of(states, nothing))


def test_a_later_layer_compares_hidden_states_with_the_question_and_the_towers_features_with_each_other() -> None:
    states, features, question = decaying(20, 9, 0), decaying(20, 9, 1), decaying(3, 9, 2)
    assert CDPruner(6).needs == {"question_states"}
    assert CDPruner(6, layer=3).needs == {"question_states", "projected_states"}
    assert CDPruner(6, relevance_weight=0).needs == frozenset()
    view = View(states, (1, 4, 5), projected_states=features, question_states=question)
    relevance = slow_relevance(states.double().numpy(), question.double().numpy())
    expected = slow_largest_volume(slow_kernel(features.double().numpy(), relevance), 6)
    assert CDPruner(6, layer=3).plan(view).kept.tolist() == sorted(expected)
    with pytest.raises(SignalError, match="question_states"):
        CDPruner(6).plan(View(states, (1, 4, 5)))


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would. Questions have different lengths.
    views = [view_of(decaying(30, 9, seed), decaying(2 + seed, 9, seed + 7)) for seed in range(3)]
    assert CDPruner(8)._decided(views, 8) == CDPruner(8).plans(views)


def test_many_tokens_need_no_whole_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of(decaying(40, 60, 0), decaying(3, 60, 1))
    whole = [CDPruner(keep).plan(view) for keep in (1, 13, 30)]
    monkeypatch.setattr(foveate.methods.cdpruner, "WHOLE", 39)
    assert [CDPruner(keep).plan(view) for keep in (1, 13, 30)] == whole


def test_frames_and_crops_are_one_set_of_tokens() -> None:
    states, question = decaying(24, 40, 0), decaying(3, 40, 1)
    alone = sorted(slow_cdpruner(states, question, 8))
    assert CDPruner(4).plan(View(states, (2, 3, 4), kind="video", question_states=question)).kept.tolist() == alone
    parts = ((1, 3, 4), (1, 4, 3))
    assert CDPruner(8).plan(View(states, (1, 1, 24), parts=parts, question_states=question)).kept.tolist() == alone


def test_what_cannot_be_compared_is_refused() -> None:
    states, question = decaying(20, 9, 0), decaying(3, 9, 1)
    broken = states.clone()
    broken[3, 2] = math.nan
    with pytest.raises(InputError, match="NaN or infinity, so CDPruner cannot compare its tokens"):
        CDPruner(5).plan(view_of(broken, question))
    later = View(broken, (1, 4, 5), question_states=question, projected_states=states)
    with pytest.raises(InputError, match="NaN or infinity, so CDPruner cannot compare its tokens"):
        CDPruner(5, layer=2).plan(later)
    with pytest.raises(InputError, match="question's states contain NaN or infinity, so CDPruner"):
        CDPruner(5).plan(view_of(states, question.clone().fill_(math.inf)))


@pytest.mark.parametrize("relevance", [-0.1, 1.1, math.nan, True, "1", None])
def test_a_weight_outside_its_range_is_refused(relevance: object) -> None:
    with pytest.raises(OptionError, match=r"relevance_weight=.* must be a number in \[0, 1\]; 0 decides by diversity alone"):
        CDPruner(5, relevance_weight=relevance)  # type: ignore[arg-type]


def test_a_choice_that_is_none_is_refused() -> None:
    with pytest.raises(OptionError, match="centred=1 must be True or False"):
        CDPruner(5, centred=1)  # type: ignore[arg-type]
