"""Plans, views, methods and reports without any model."""

from __future__ import annotations

import math
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tiny import batch, prompt, tiny_llava

from foveate import Method, Plan, Report, View, compress
from foveate.errors import BudgetError, MethodError, SignalError, UnknownNameError
from foveate.methods import find_method, methods
from foveate.report import ImageReport, Stage

pytestmark = pytest.mark.one_version

MAP = [0, 0, -1, 3, 3, -1, 6]


def test_everything_follows_from_the_map() -> None:
    plan = Plan(torch.tensor(MAP))
    assert plan.kept.tolist() == [0, 3, 6]
    assert plan.merged.tolist() == [1, 4]
    assert plan.dropped.tolist() == [2, 5]
    assert (len(plan), plan.tokens_after, plan.is_identity) == (7, 3, False)
    assert Plan.identity(4).is_identity


def test_merging_takes_the_plain_mean_of_all_sources_and_leaves_the_rest_bit_for_bit() -> None:
    states = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    merged = Plan(torch.tensor([0, 0, 0, 3, -1, -1, 6])).merge(states)
    torch.testing.assert_close(merged[0], states[:3].mean(0))
    assert torch.equal(merged[1:], states[[3, 6]])


def test_half_precision_is_averaged_in_float32() -> None:
    states = torch.tensor([[256.0], [1.0], [1.0]], dtype=torch.bfloat16)
    # In bfloat16 256 + 1 is 256 again.
    assert Plan(torch.tensor([0, 0, 0])).merge(states).item() == torch.tensor(86.0).bfloat16().item()


def test_merging_lets_gradients_through() -> None:
    states = torch.randn(4, 2, requires_grad=True)
    Plan(torch.tensor([0, 0, 2, -1])).merge(states).sum().backward()
    assert states.grad is not None
    assert states.grad[:, 0].tolist() == [0.5, 0.5, 1.0, 0.0]


@pytest.mark.parametrize("target", [[], [1, 0], [-1, -1], [0, 5], [0, -2], [1, 2, 2]], ids=str)
def test_impossible_maps_are_refused(target: list[int]) -> None:
    with pytest.raises(ValueError, match=r"Plan\.target"):
        Plan(torch.tensor(target, dtype=torch.long))


@pytest.mark.parametrize("target", [torch.tensor([0.0]), torch.tensor([[0]]), torch.tensor([True])], ids=str)
def test_maps_are_one_dimensional_integers(target: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"shape \(n,\)"):
        Plan(target)


def test_plans_compose() -> None:
    first, second = Plan(torch.tensor(MAP)), Plan(torch.tensor([0, 0, -1]))
    both = first.then(second)
    assert both.to_list() == [0, 0, -1, 0, 0, -1, -1]
    assert first.then(Plan.identity(3)) == first
    with pytest.raises(ValueError, match="keeps 3"):
        first.then(first)


def test_a_deferred_plan_is_the_same_plan() -> None:
    plan = Plan(torch.tensor(MAP), torch.tensor([4, 1]))
    deferred = Plan.deferred(torch.tensor(MAP), 3, torch.tensor([4, 1]))
    assert isinstance(deferred, Plan)
    assert deferred == plan
    assert plan == deferred
    assert (len(deferred), deferred.tokens_after, deferred.merges, repr(deferred)) == (7, 3, True, repr(plan))
    assert deferred.kept.tolist() == plan.kept.tolist()
    assert deferred.to_list() == plan.to_list()
    states = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(deferred.merge(states), plan.merge(states))
    assert deferred.then(Plan.identity(3)) == plan
    assert deferred.cpu().order.tolist() == [4, 1]
    copied = pickle.loads(pickle.dumps(deferred))
    assert type(copied) is Plan
    assert copied == plan
    assert copied.order.tolist() == [4, 1]


@pytest.mark.parametrize(("kept", "order"), [(2, [1, 4]), (3, None)], ids=["another number", "unsaid merges"])
def test_what_a_deferred_plan_was_told_is_checked_when_it_is_read(kept: int, order: list[int] | None) -> None:
    plan = Plan.deferred(torch.tensor(MAP), kept, None if order is None else torch.tensor(order))
    assert len(plan) == 7  # which nobody has to wait for
    with pytest.raises(ValueError, match=r"told of .* but its target keeps 3 and merges 2"):
        plan.cpu()


@pytest.mark.parametrize(
    ("target", "order"),
    [
        ([0, 0, 2, 3, 4], None),
        ([0, 1, 2, -1, -1], None),
        ([0, 1, 2, 3, 4], [4]),
        ([0, 1, 2, 3, -1], [4]),
        ([0, 1, 2, 3, 3], [4, 4]),
        ([0, 1, 2, 3, 3], [-1]),
        ([0, 1, 2, 3, 4, 6], [5]),
        ([0, 1, 2, 3, 16], [4]),
        ([0, 1, 2, 3, -2], None),
    ],
    ids=[
        "unsaid merge",
        "count",
        "kept in order",
        "dropped in order",
        "twice",
        "negative order",
        "into a dropped one",
        "too far",
        "below -1",
    ],
)
def test_a_deferred_plan_that_is_none_is_found_in_the_prefill(target: list[int], order: list[int] | None) -> None:
    whole = torch.tensor(target + [-1] * (16 - len(target)))
    deferred = Plan.deferred(whole, 4, None if order is None else torch.tensor(order))
    assert deferred.sound is not None
    assert not deferred.sound
    with pytest.raises(ValueError, match="Plan"):
        deferred.cpu()

    class Wrong(Method):
        def plan(self, view: View) -> Plan:
            return deferred

    with compress(tiny_llava(), Wrong(keep=4)) as handle, pytest.raises(MethodError, match=r"Wrong\(keep=4\): what it gave Plan\.deferred"):
        handle.model(**batch([prompt(3, "image", 5)]))


@pytest.mark.parametrize(
    ("target", "kept", "order"),
    [(torch.zeros(2, 2).long(), 1, None), (torch.zeros(4), 1, None), (torch.arange(4), 0, None), (torch.arange(4), 5, None)],
    ids=["dimensions", "dtype", "none kept", "too many kept"],
)
def test_what_the_host_knows_of_a_deferred_plan_is_checked_at_once(target: torch.Tensor, kept: int, order: None) -> None:
    with pytest.raises(ValueError, match=r"Plan\.deferred"):
        Plan.deferred(target, kept, order)


@pytest.mark.parametrize("rows", [[prompt(3, "image", 2, "image", 5)], [prompt(3, "image", 5)] * 2], ids=["row", "batch"])
def test_wrong_numbers_that_make_up_for_each_other_are_found_too(rows: list[list[int]]) -> None:
    class Miscounting(Method):
        def plans(self, views: Sequence[View]) -> list[Plan]:
            return [Plan.deferred(Plan.keep(range(kept), 16).target, 5) for kept in (6, 4)]

    model, inputs = tiny_llava(), batch(rows)
    with compress(model, Miscounting(keep=5)), pytest.raises(MethodError, match=r"what it gave Plan\.deferred is no plan"):
        model(**inputs)
    # Of foveate's own methods the numbers alone are checked.
    Miscounting.__module__ = "foveate.methods.made_up"
    with compress(model, Miscounting(keep=5)), pytest.raises(MethodError, match="another number of visual tokens than it says"):
        model(**inputs)


def test_merge_checks_its_rows() -> None:
    with pytest.raises(ValueError, match="7 tokens"):
        Plan(torch.tensor(MAP)).merge(torch.zeros(6, 2))


def test_views_check_their_shapes_and_name_what_is_missing() -> None:
    with pytest.raises(ValueError, match="5 rows but grid"):
        View(states=torch.zeros(5, 2), grid=(1, 2, 2))
    with pytest.raises(ValueError, match="last_attention has 3 rows"):
        View(states=torch.zeros(4, 2), grid=(1, 2, 2), last_attention=torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        View(states=torch.zeros(4), grid=(1, 2, 2))
    view = View(states=torch.zeros(2, 2), grid=(1, 2, 2), index=torch.tensor([0, 3]))
    with pytest.raises(SignalError, match="last_attention"):
        view.signal("last_attention")


class Norm(Method):
    """For the tests below."""

    def score(self, view: View) -> torch.Tensor:
        return view.states.norm(dim=-1)


def test_a_ranking_is_enough_and_ties_go_to_the_lower_index() -> None:
    view = View(states=torch.tensor([[1.0], [3.0], [2.0], [3.0], [2.0], [2.0]]), grid=(1, 2, 3))
    assert Norm(keep=4).plan(view).kept.tolist() == [1, 2, 3, 4]
    assert Norm(keep=1).plan(view).kept.tolist() == [1]


@pytest.mark.parametrize(
    ("keep", "tokens", "frames", "expected"), [(5, 9, 1, 5), (2, 9, 3, 6), (0.5, 9, 1, 5), (0.5, 8, 1, 4), (1e-9, 8, 1, 1), (1.0, 7, 1, 7)]
)
def test_budgets(keep: float, tokens: int, frames: int, expected: int) -> None:
    assert Norm(keep=keep).budget(tokens, frames) == expected


def test_a_budget_that_cannot_be_met_names_the_parameters_that_help() -> None:
    with pytest.raises(BudgetError, match=r"keep=20 \(keep=10 x 2 frames\) asks for more visual tokens than the 9") as caught:
        Norm(keep=10).budget(9, frames=2)
    assert caught.value.parameters == ("keep", "clamp")
    assert "--" not in str(caught.value)
    assert Norm(keep=10, clamp=True).budget(9, frames=2) == 9
    with pytest.raises(BudgetError) as caught:
        Norm(keep=0)
    assert caught.value.parameters == ("keep",)


def test_numpy_numbers_are_numbers() -> None:
    assert str(Norm(keep=np.int64(4))) == "Norm(keep=4)"
    assert type(Norm(keep=np.float32(0.5)).keep) is float


def test_methods_read_well() -> None:
    assert str(Norm(keep=0.5)) == "Norm(keep=0.5)"
    assert str(Norm(keep=4, layer=3)) == "Norm(keep=4, layer=3)"


def test_methods_are_found_by_name_and_corrected() -> None:
    assert {"tokencarve", "fastv", "random", "pool"} <= set(methods())
    assert find_method("Token-Carve") is methods()["tokencarve"]
    with pytest.raises(UnknownNameError, match="did you mean 'tokencarve'"):
        find_method("tokencrave")
    with pytest.raises(UnknownNameError, match="known methods are"):
        find_method("zzz")
    assert all(math.isfinite(len(method.summary())) and method.summary().endswith(".") for method in methods().values())


def test_reports_go_to_json_and_back() -> None:
    plan = Plan(torch.tensor(MAP))
    image = ImageReport(row=0, position=1, grid=(1, 1, 7), plan=plan, stages=(Stage("Norm(keep=3)", 2, plan),))
    report = Report((image,), cache_bytes_before=1000, cache_bytes_after=400, method_seconds=0.01, columns=((0, 3, 6), (-1, 1, 2)))
    again = Report.from_json(report.to_json())
    assert again == report
    assert (again.tokens_before, again.tokens_after) == (7, 3)
    assert "7 -> 3" in str(again)
    assert "60.0% smaller" in str(again)
    assert "no visual tokens" in str(Report())


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 99}', "3"])
def test_other_json_is_not_a_report(text: str) -> None:
    with pytest.raises(ValueError, match="not a foveate report"):
        Report.from_json(text)
