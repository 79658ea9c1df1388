"""DivPrune against an example worked out by hand, and against the paper's algorithm in loops."""

from __future__ import annotations

import math

import pytest
import torch
from greedy_reference import slow_centred_divprune
from methods_reference import cosine, decaying
from torch import Tensor

import foveate.methods.divprune
from foveate.errors import InputError, OptionError, SignalError
from foveate.methods import DivPrune
from foveate.view import View

pytestmark = pytest.mark.one_version


def view_of(states: Tensor) -> View:
    return View(states, (1, 1, len(states)))


def slow_divprune(features: Tensor, keep: int) -> list[int]:
    """The tokens in the order in which algorithm 1 of the paper takes them, in loops; distances equal to 11 digits are equal."""
    rows = features.double().numpy()

    def distance(a: int, b: int) -> float:
        return round(1 - cosine(rows[a], rows[b]), 11)

    chosen: list[int] = []
    left = list(range(len(rows)))
    while len(chosen) < keep:
        best, farthest = -1, -math.inf
        for candidate in left:
            others = chosen or [token for token in left if token != candidate]
            nearest = math.inf
            for other in others:
                nearest = min(nearest, distance(candidate, other))
            if nearest > farthest:
                best, farthest = candidate, nearest
        chosen.append(best)
        left.remove(best)
    return chosen


def test_an_example_worked_out_by_hand() -> None:
    # Cosines: 0-1 0.8, 0-2 0, 0-3 -0.6, 0-4 -1, 1-2 0.6, 1-3 0, 1-4 -0.8, 2-3 0.8, 2-4 0, 3-4 0.6.
    states = torch.tensor([[5.0, 0], [4, 3], [0, 2], [-3, 4], [-1, 0]])
    # Token 4 is farthest from its nearest other one (3, at 0.4; the others have one at 0.2). Farthest from 4 is 0 (distance 2), then
    # 2 (1 from both), then 1 and 3 (0.2 from their nearest): the lower index.
    order = [4, 0, 2, 1, 3]
    for keep in range(1, 6):
        assert DivPrune(keep).plan(view_of(states)).kept.tolist() == sorted(order[:keep])
    assert DivPrune(2).plan(view_of(states)).to_list() == [0, -1, -1, -1, 4]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 2), (20, 5), (30, 12), (12, 30)])
def test_it_agrees_with_the_papers_algorithm_for_every_budget(n: int, d: int, dtype: torch.dtype) -> None:
    states = decaying(n, d, seed=n + d).to(dtype)
    for keep in range(1, n + 1):
        assert DivPrune(keep).plan(view_of(states)).kept.tolist() == sorted(slow_divprune(states, keep)), keep


def test_a_smaller_budget_is_part_of_a_larger_one_and_lengths_do_not_matter() -> None:
    states = decaying(40, 9, 0)
    lengths = torch.rand(40, 1, generator=torch.Generator().manual_seed(1)) * 100 + 0.01
    plans = [DivPrune(keep).plan(view_of(states)) for keep in (5, 20)]
    assert set(plans[0].kept.tolist()) < set(plans[1].kept.tolist())
    assert DivPrune(20).plan(view_of(states * lengths)) == plans[1]


def test_copies_of_tokens_come_last_and_from_the_first_on() -> None:
    different = decaying(6, 8, 3)
    states = different[[0, 0, 1, 2, 1, 3, 4, 0, 5, 5]]
    assert DivPrune(6).plan(view_of(states)).kept.tolist() == [0, 2, 3, 5, 6, 8]
    assert DivPrune(8).plan(view_of(states)).kept.tolist() == [0, 1, 2, 3, 4, 5, 6, 8]
    assert DivPrune(3).plan(view_of(different[:1].expand(9, 8))).kept.tolist() == [0, 1, 2]


def test_tokens_without_length_are_far_from_all() -> None:
    states = torch.tensor([[1.0, 0], [0, 0], [1, 0.1], [0, 0]])
    assert [DivPrune(keep).plan(view_of(states)).kept.tolist() for keep in (1, 2, 3)] == [[1], [0, 1], [0, 1, 3]]


def test_many_tokens_need_no_matrix_of_all_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    states = decaying(40, 9, 0)
    whole = [DivPrune(keep).plan(view_of(states)) for keep in (1, 13, 39)]
    monkeypatch.setattr(foveate.methods.divprune, "WHOLE", 39)
    monkeypatch.setattr(foveate.methods.divprune, "BLOCK", 7)
    sizes: list[int] = []
    original = foveate.methods.divprune.cosines

    def spy(rows: Tensor, others: Tensor) -> Tensor:
        found = original(rows, others)
        sizes.append(found.numel())
        return found

    monkeypatch.setattr(foveate.methods.divprune, "cosines", spy)
    assert [DivPrune(keep).plan(view_of(states)) for keep in (1, 13, 39)] == whole
    assert max(sizes) == 7 * 40


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would.
    views = [view_of(decaying(30, 9, seed)) for seed in range(3)]
    assert DivPrune(11)._decided(views, 11) == DivPrune(11).plans(views)


def test_frames_and_crops_are_one_set_of_tokens() -> None:
    states = decaying(24, 9, 0)
    alone = slow_divprune(states, 8)
    assert DivPrune(4).plan(View(states, (2, 3, 4), kind="video")).kept.tolist() == sorted(alone)
    assert DivPrune(8).plan(View(states, (1, 1, 24), parts=((1, 3, 4), (1, 4, 3)))).kept.tolist() == sorted(alone)


def test_a_later_layer_compares_what_the_tower_gave() -> None:
    states, features = decaying(20, 9, 0), decaying(20, 9, 1)
    assert DivPrune(6).needs == frozenset()
    assert DivPrune(6, layer=3).needs == {"projected_states"}
    plan = DivPrune(6, layer=3).plan(View(states, (1, 4, 5), projected_states=features))
    assert plan == DivPrune(6).plan(view_of(features)) != DivPrune(6).plan(view_of(states))
    with pytest.raises(SignalError, match="projected_states"):
        DivPrune(6, layer=3).plan(view_of(states))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_features_that_are_no_numbers_are_refused(value: float, dtype: torch.dtype) -> None:
    states = decaying(20, 9, 0).to(dtype)
    states[3, 2] = value
    with pytest.raises(InputError, match="vision features of an image contain NaN or infinity, so DivPrune cannot compare its tokens"):
        DivPrune(5).plan(view_of(states))


def test_centred_features_are_compared_as_an_example_worked_out_by_hand_says() -> None:
    # The mean is (4, 0): centred, tokens 0 to 3 point right, left, up and down.
    states = torch.tensor([[6.0, 0], [2, 0], [4, 3], [4, -3]])
    # All nearest others are at a right angle, so token 0 comes first. 1 is opposite, at distance 2, and 2 and 3 at 1. But 0 and 1 have
    # cosine 1 and are 0.8 from both others (mean 0.8667), while 2 and 3 have 0.28 between them (mean 0.6267): only they are distinct.
    assert [DivPrune(keep, centred=True).plan(view_of(states)).kept.tolist() for keep in (1, 2, 3)] == [[0], [0, 2], [0, 2, 3]]


@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 2), (20, 5), (12, 30)])
def test_centred_it_agrees_with_the_papers_equation_for_every_budget(n: int, d: int) -> None:
    states = decaying(n, d, seed=n + d) + 2
    order = slow_centred_divprune(states.double().numpy(), n)
    for keep in range(1, n + 1):
        assert DivPrune(keep, centred=True).plan(view_of(states)).kept.tolist() == sorted(order[:keep]), keep


def test_centred_copies_of_one_token_are_taken_from_the_first_on() -> None:
    assert DivPrune(3, centred=True).plan(view_of(decaying(1, 8, 0).expand(9, 8))).kept.tolist() == [0, 1, 2]


def test_centring_is_a_yes_or_no() -> None:
    with pytest.raises(OptionError, match="centred='yes' must be True or False"):
        DivPrune(5, centred="yes")  # type: ignore[arg-type]
