"""Budgets that follow the image: the number of tokens, against hand-worked cases and the definition written out, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from test_every_method import COMPRESSOR, view_of
from torch import Tensor

import foveate
from foveate import Explainer, FastV, FirstLayerAttention, Oracle, PyramidDrop, TokenCarve, TowerAttention
from foveate.errors import BudgetError, InputError, MethodError, OptionError
from foveate.methods import methods, parse_method
from foveate.methods.information import information_contribution
from foveate.methods.mass import MassMethod, accumulated, smallest
from foveate.view import View

pytestmark = pytest.mark.one_version

GRIDS = [(1, 1, 1), (1, 3, 3), (1, 5, 7), (3, 2, 3), (1, 10, 10)]
IMPORTANCE: dict[str, tuple[Callable[..., MassMethod], Callable[[View], Tensor]]] = {
    "explainer": (
        lambda keep, **options: Explainer(keep, compressor=COMPRESSOR, **options),
        lambda view: Explainer(keep=1, compressor=COMPRESSOR).score(view).double().exp(),
    ),
    "fastv": (FastV, lambda view: view.signal("last_attention")),
    "firstlayerattention": (FirstLayerAttention, lambda view: view.signal("head_attention").mean(0)),
    "pyramiddrop": (PyramidDrop, lambda view: view.signal("next_attention")),
    "towerattention": (TowerAttention, lambda view: view.signal("tower_attention")),
}
"""The methods that rank by their importance alone, and that importance."""


def attended(*values: float) -> View:
    return View(torch.eye(len(values)), (1, 1, len(values)), last_attention=torch.tensor(values, dtype=torch.float64))


def by_definition(importance: Tensor, mass: float, least: int, most: int) -> int:
    """Adds exact fractions, the largest first, until they hold the share."""
    values = sorted((Fraction(float(value)) for value in importance), reverse=True)
    held = itertools.accumulate(values)
    number = next((place for place, sofar in enumerate(held, 1) if sofar >= Fraction(str(mass)) * sum(values)), len(values))
    return min(max(number, least), most)


def test_a_case_worked_by_hand() -> None:
    # Shares 0.5, 0.2, 0.1 and four of 0.05: the best 1, 2, 3, ... hold 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 1.
    view = attended(0.05, 0.2, 0.05, 0.5, 0.05, 0.1, 0.05)
    kept = {mass: FastV(keep=1.0, mass=mass).plan(view).kept.tolist() for mass in (0.3, 0.5, 0.51, 0.7, 0.8, 0.81, 0.9, 1.0)}
    assert kept == {
        0.3: [3],
        0.5: [3],
        0.51: [1, 3],
        0.7: [1, 3],
        0.8: [1, 3, 5],
        0.81: [0, 1, 3, 5],  # among the four equal ones, the first
        0.9: [0, 1, 2, 3, 5],
        1.0: [0, 1, 2, 3, 4, 5, 6],
    }
    assert FastV(keep=2, mass=0.9).plan(view).kept.tolist() == [1, 3]
    assert FastV(keep=5, mass=0.3, at_least=4).plan(view).kept.tolist() == [0, 1, 3, 5]
    assert FastV(keep=0.5, mass=0.9, at_least=0.45).plan(view).tokens_after == 4


@pytest.mark.parametrize("mass", [0.05, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", IMPORTANCE)
def test_the_number_is_the_smallest_that_holds_the_mass(name: str, grid: tuple[int, int, int], mass: float) -> None:
    make, importance = IMPORTANCE[name]
    view = view_of(grid, 80)
    tokens, frames = len(view), grid[0]
    for least, most in ((1, 1.0), (0.2, 0.5), (1, 1)):
        method = make(most, mass=mass, at_least=least)
        number = by_definition(importance(view), mass, method.fewest(tokens, frames), method.budget(tokens, frames))
        plan = method.plan(view)
        assert plan == make(number / tokens).plan(view)  # and it keeps the tokens that a fixed budget of that number keeps
        assert method.fewest(tokens, frames) <= plan.tokens_after <= method.budget(tokens, frames)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("mass", [0.05, 0.3, 0.9])
def test_tokencarve_counts_attention_and_information_in_its_own_order(mass: float, weight: float) -> None:
    view = view_of((1, 5, 7), 80)
    attention, information = view.signal("last_attention").double(), information_contribution(view.states, "exact").double()
    importance = weight * attention / attention.sum() + (1 - weight) * information / information.sum()
    best = [TokenCarve(keep=k, attention_weight=weight, stage_one=1.0).plan(view).kept for k in range(1, 36)]
    number = next(len(kept) for kept in best if importance[kept].sum() >= mass - 1e-9)
    assert TokenCarve(keep=1.0, mass=mass, attention_weight=weight).plan(view) == TokenCarve(keep=number, attention_weight=weight).plan(
        view
    )


def test_the_oracle_counts_relevance_where_it_is_positive() -> None:
    relevance = torch.tensor([-5.0, 3.0, 1.0, -1.0, 0.0])
    kept = [Oracle(keep=1.0, mass=mass, relevance=[relevance]).plan(attended(1, 1, 1, 1, 1)).kept.tolist() for mass in (0.75, 0.76, 1.0)]
    assert kept == [[1], [1, 2], [1, 2]]


def test_where_nothing_is_important_the_most_remain() -> None:
    assert FastV(keep=3, mass=0.5).plan(attended(0, 0, 0, 0, 0)).kept.tolist() == [0, 1, 2]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_equal_tokens_count_as_on_paper(dtype: torch.dtype, share: float) -> None:
    for value in (1.0, 1 / 3, 1e-4):
        curve = accumulated(torch.full((10,), value, dtype=dtype))
        assert smallest([curve], share) == [round(10 * share)]


@pytest.mark.parametrize("name", IMPORTANCE)
def test_a_batch_is_planned_as_its_images_one_by_one(name: str) -> None:
    views = [view_of(grid, 80, seed=seed) for seed, grid in enumerate([(1, 5, 7), (1, 10, 10), (1, 5, 7), (1, 3, 3), (1, 10, 10)])]
    method = IMPORTANCE[name][0](0.8, mass=0.6)
    plans = method.plans(views)
    assert plans == [method.plan(view) for view in views]
    assert method.plans(views[::-1]) == plans[::-1]
    assert method.plans([]) == []
    assert len({plan.tokens_after for plan in plans}) > 2
    carve = TokenCarve(keep=0.8, mass=0.6)
    assert carve.plans(views) == [carve.plan(view) for view in views]


def test_the_order_of_the_tokens_does_not_matter() -> None:
    view = view_of((1, 10, 10), 8)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    moved = View(view.states[order], view.grid, view.signal("last_attention")[order])
    method = FastV(keep=1.0, mass=0.6)
    assert method.plan(moved).kept.tolist() == sorted(order.argsort()[token] for token in method.plan(view).kept.tolist())


def test_exactly_these_methods_can_follow_the_image() -> None:
    able = {name for name, method in methods().items() if issubclass(method, MassMethod)}
    assert able == {"tokencarve", "oracle", *IMPORTANCE}


def test_text_spells_it() -> None:
    method = parse_method("fastv:mass=0.9,at_least=0.05,keep=0.5")
    assert method == FastV(keep=0.5, mass=0.9, at_least=0.05)
    assert str(method) == "FastV(keep=0.5, mass=0.9, at_least=0.05)"
    assert not method.exact
    assert FastV(keep=0.5).exact


def test_shapes_say_the_bounds_alone() -> None:
    method = FastV(keep=0.5, mass=0.9, at_least=16)
    assert (method.fewest(576), method.budget(576)) == (16, 288)
    assert (method.fewest(200, 8), method.budget(200, 8)) == (100, 100)  # 16 for each frame of a video, at most half
    with pytest.raises(BudgetError, match=r"depends on the image, not on shapes alone.* the most it keeps: at most 288, 2 of these images"):
        foveate.tokens_after(method, [(1, 24, 24), (1, 2, 2)])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FastV(keep=9, mass=0), OptionError, r"mass=0 must be a share"),
        (lambda: FastV(keep=9, mass=1.1), OptionError, r"mass=1.1 must be a share"),
        (lambda: FastV(keep=9, mass=True), OptionError, r"mass=True must be a share"),
        (lambda: FastV(keep=9, mass=float("nan")), OptionError, r"mass=nan must be a share"),
        (lambda: FastV(keep=9, mass=0.5, at_least=0), BudgetError, r"at_least=0 must be"),
        (lambda: FastV(keep=9, mass=0.5, at_least=1.5), BudgetError, r"at_least=1.5 must be"),
        (lambda: FastV(keep=9, mass=0.5, at_least=10), BudgetError, r"at_least=10 is more than keep=9"),
        (lambda: FastV(keep=0.5, mass=0.5, at_least=0.6), BudgetError, r"at_least=0.6 is more than keep=0.5"),
        (lambda: FastV(keep=9, at_least=2), BudgetError, r"at_least=2 bounds what mass keeps; pass mass too"),
        (lambda: parse_method("divprune:mass=0.9,keep=9"), InputError, "divprune has no option 'mass'.*; .*fastv.*tokencarve.* have it"),
        (lambda: PyramidDrop(keep=9, mass=2), OptionError, r"mass=2 must be a share"),
    ],
)
def test_what_is_no_budget_is_refused(make: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


class Signed(MassMethod):
    """Somebody's method whose scores are no importance."""

    def score(self, view: View) -> Tensor:
        return torch.arange(len(view)) - 2.0


def test_a_negative_importance_is_refused() -> None:
    assert Signed(keep=2).plan(attended(1, 1, 1, 1)).kept.tolist() == [2, 3]
    with pytest.raises(MethodError, match="mass needs an importance that is not negative"):
        Signed(keep=2, mass=0.5).plan(attended(1, 1, 1, 1))


def test_pyramiddrop_takes_a_root_of_the_mass_at_each_stage() -> None:
    stages = PyramidDrop(keep=2, mass=0.512, layer=0, at=(1, 2, 3), at_least=2).stages(4)
    view = View(torch.eye(10), (1, 1, 10), next_attention=torch.full((10,), 0.1))
    assert [stage.plan(view).tokens_after for stage in stages] == [6, 4, 2]  # no more than without mass: 5.8, 4.5 and 2 of ten
    loose = PyramidDrop(keep=1.0, mass=0.512, layer=0, at=(1, 2, 3)).stages(4)
    assert [stage.plan(view).tokens_after for stage in loose] == [8, 8, 8]  # each 0.8 of what it sees


def test_a_later_stage_may_see_fewer_tokens_than_keep() -> None:
    stages = PyramidDrop(keep=5, mass=0.1, layer=0, at=(1, 2)).stages(4)
    few = View(torch.eye(3), (1, 1, 10), next_attention=torch.full((3,), 0.1), index=torch.tensor([1, 4, 7]))
    assert stages[1].plan(few).tokens_after == 1
    with pytest.raises(BudgetError, match="keep=5 asks for more"):
        PyramidDrop(keep=5, layer=0, at=(1, 2)).stages(4)[1].plan(few)
