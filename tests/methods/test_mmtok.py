"""MMTok against an example worked out by hand, and against the paper's coverage in loops."""

from __future__ import annotations

import math

import pytest
import torch
from greedy_reference import slow_mmtok
from methods_reference import decaying
from torch import Tensor

import foveate.methods.mmtok
from foveate.errors import InputError, OptionError, SignalError
from foveate.methods import MMTok
from foveate.view import View

pytestmark = pytest.mark.one_version


def view_of(states: Tensor, question: Tensor, tower: Tensor | None = None) -> View:
    return View(states, (1, 1, len(states)), question_states=question, tower_states=states if tower is None else tower)


def slow(
    states: Tensor, tower: Tensor, question: Tensor, keep: int, visual: float = 0.5, text: float = 0.02, image: float = 0.2
) -> list[int]:
    return slow_mmtok(*(rows.double().numpy() for rows in (states, tower, question)), keep, visual, text, image)


def test_an_example_worked_out_by_hand() -> None:
    # Three tokens point to the right, one up, one to the left. At this temperature each direction covers itself alone: a token of
    # three equal ones by 1/3, the others by 1.
    states = torch.tensor([[1.0, 0], [2, 0], [3, 0], [0, 1], [-1, 0]])
    # Of the text tokens two point up and one to the left.
    question = torch.tensor([[0.0, 2], [0, 3], [-4, 0]])
    method = {"text_temperature": 0.01, "visual_temperature": 0.01}
    # Text: 3 adds 2/3, 4 adds 1/3, others 0. Visual tokens times 0.5 / 5: 3 and 4 add 0.1 each, 0 to 2 add 3 x 1/3 x 0.1 = 0.1.
    # Hence 3, 4, then 0 before 1 and 2, which add nothing once 0 is there.
    for keep, kept in ((1, [3]), (2, [3, 4]), (3, [0, 3, 4]), (4, [0, 1, 3, 4])):
        assert MMTok(keep, **method).plan(view_of(states, question)).kept.tolist() == kept


@pytest.mark.parametrize(("visual", "text", "image"), [(0.5, 0.02, 0.2), (0, 0.1, 0.2), (3, 0.5, 0.05)])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 2), (14, 9)])
def test_it_agrees_with_the_papers_coverage_for_every_budget(n: int, d: int, visual: float, text: float, image: float) -> None:
    states, tower, question = decaying(n, d, seed=n + d), decaying(n, d + 3, seed=2), decaying(4, d, seed=1)
    order = slow(states, tower, question, n, visual, text, image)
    for keep in range(1, n + 1):
        method = MMTok(keep, visual=visual, text_temperature=text, visual_temperature=image)
        assert method.plan(view_of(states, question, tower)).kept.tolist() == sorted(order[:keep]), keep


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_it_agrees_with_the_papers_coverage_for_every_precision(dtype: torch.dtype) -> None:
    states, tower, question = (decaying(n, 9, seed).to(dtype) for seed, n in enumerate((20, 20, 3)))
    assert MMTok(8).plan(view_of(states, question, tower)).kept.tolist() == sorted(slow(states, tower, question, 8))


def test_features_after_projection_are_compared_where_that_is_asked_for() -> None:
    states, tower, question = decaying(20, 9, 0), decaying(20, 12, 1), decaying(3, 9, 2)
    assert MMTok(6).needs == MMTok(6, layer=2).needs == {"question_states", "tower_states"}
    assert MMTok(6, features="projected").needs == {"question_states"}
    assert MMTok(6, 3, features="projected").needs == {"question_states", "projected_states"}
    plan = MMTok(6, features="projected").plan(View(states, (1, 4, 5), question_states=question))
    assert plan.kept.tolist() == sorted(slow(states, states, question, 6))
    with pytest.raises(SignalError, match="tower_states"):
        MMTok(6).plan(View(states, (1, 4, 5), question_states=question))
    with pytest.raises(SignalError, match="question_states"):
        MMTok(6).plan(View(states, (1, 4, 5), tower_states=tower))


def test_the_question_decides_what_is_kept_first() -> None:
    states = decaying(60, 80, 3)
    assert [MMTok(1).plan(view_of(states, states[[token]])).kept.tolist() for token in (5, 50)] == [[5], [50]]


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would. Questions have different lengths.
    views = [view_of(decaying(30, 9, seed), decaying(2 + seed, 9, seed + 7)) for seed in range(3)]
    assert MMTok(8)._decided(views, 8) == MMTok(8).plans(views)


def test_frames_and_crops_are_one_set_of_tokens() -> None:
    states, question = decaying(24, 9, 0), decaying(3, 9, 1)
    alone = sorted(slow(states, states, question, 8))
    given = {"question_states": question, "tower_states": states}
    assert MMTok(4).plan(View(states, (2, 3, 4), kind="video", **given)).kept.tolist() == alone
    assert MMTok(8).plan(View(states, (1, 1, 24), parts=((1, 3, 4), (1, 4, 3)), **given)).kept.tolist() == alone


def test_what_cannot_be_compared_is_refused() -> None:
    states, question = decaying(20, 9, 0), decaying(3, 9, 1)
    broken = states.clone()
    broken[3, 2] = math.nan
    for view in (view_of(broken, question), view_of(states, question, broken), view_of(broken, question, states)):
        with pytest.raises(InputError, match="NaN or infinity, so MMTok cannot compare its tokens"):
            MMTok(5).plan(view)
    with pytest.raises(InputError, match="question's states contain NaN or infinity, so MMTok"):
        MMTok(5).plan(view_of(states, question.clone().fill_(math.nan)))


def test_more_tokens_than_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foveate.methods.mmtok, "MOST", 19)
    with pytest.raises(InputError, match=r"20 are too many.*the limit is 19: .*or use CDPruner"):
        MMTok(5).plan(view_of(decaying(20, 9, 0), decaying(3, 9, 1)))


@pytest.mark.parametrize(
    "option",
    [
        {"visual": -1},
        {"visual": math.nan},
        {"visual": True},
        {"text_temperature": 0},
        {"text_temperature": "1"},
        {"visual_temperature": 11},
        {"features": "clip"},
    ],
    ids=str,
)
def test_options_outside_their_range_are_refused(option: dict[str, object]) -> None:
    (name,) = option
    with pytest.raises(OptionError, match=rf"{name}=.* must be"):
        MMTok(5, **option)  # type: ignore[arg-type]
