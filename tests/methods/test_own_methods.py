"""A method of one's own whose score or plan is not what it must be: refused by name, before a token leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from tiny import TOKENS, batch, prompt, tiny_llava
from torch import Tensor

import foveate
from foveate import Method, Plan, View
from foveate.errors import BudgetError, MethodError


@dataclass(frozen=True)
class Scored(Method):
    """Ranks by whatever it is given."""

    give: Callable[[View], Any] = lambda view: view.states[:, 0]

    def score(self, view: View) -> Tensor:
        return self.give(view)


@dataclass(frozen=True)
class Planned(Method):
    """Plans whatever it is given."""

    give: Callable[[Sequence[View]], Any] = lambda views: []

    def plans(self, views: Sequence[View]) -> list[Plan]:
        return self.give(views)


def run(method: Method) -> foveate.Report:
    model = tiny_llava()
    with foveate.compress(model, method) as handle, torch.no_grad():
        model(**batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)]))
        return handle.report


@pytest.mark.parametrize(
    ("give", "match"),
    [
        (lambda view: view.states[:, :1], r"shape \(16, 1\).*\(16,\)"),
        (lambda view: view.states[:7, 0], r"shape \(7,\).*\(16,\)"),
        (lambda view: view.states[0, 0], r"shape \(\).*\(16,\)"),
        (lambda view: torch.cat([view.states[:, 0]] * 2), r"shape \(32,\)"),
        (lambda view: view.states[:, 0].tolist(), "a list"),
        (lambda view: None, "a NoneType"),
        (lambda view: torch.where(torch.arange(16) == 3, torch.nan, 1.0), "NaN for 1 of 16"),
        (lambda view: torch.full((16,), torch.nan), "NaN for 16 of 16"),
    ],
)
def test_a_score_that_cannot_be_ranked(give: Callable[[View], Any], match: str) -> None:
    with pytest.raises(MethodError, match=rf"Scored\(keep=4.*{match}"):
        run(Scored(keep=4, give=give))


@pytest.mark.parametrize(
    "give", [lambda view: -torch.arange(16.0) * torch.inf, lambda view: torch.arange(16), lambda view: torch.ones(16) > 0]
)
def test_a_score_that_can(give: Callable[[View], Any]) -> None:
    score = give(None)
    if score.is_floating_point():
        score[0] = 1.0
    assert run(Scored(keep=4, give=lambda view: score)).tokens_after == 8


@pytest.mark.parametrize(
    ("give", "match"),
    [
        (lambda views: [Plan.keep([0], TOKENS)] * 2, "keeps 1 of 16 visual tokens, but its budget is 4"),
        (lambda views: [Plan.identity(TOKENS)] * 2, "keeps 16 of 16 visual tokens, but its budget is 4"),
        (lambda views: [Plan.identity(4)] * 2, "plan is for 4 visual tokens, but the view has 16"),
        (lambda views: [Plan.identity(TOKENS)], "1 values for 2 images"),
        (lambda views: None, "a NoneType for 2 images"),
        (lambda views: [torch.arange(TOKENS)] * 2, "2 values for 2 images"),
    ],
)
def test_plans_that_break_their_promise(give: Callable[[Sequence[View]], Any], match: str) -> None:
    with pytest.raises(MethodError, match=rf"Planned\(keep=4.*{match}"):
        run(Planned(keep=4, give=give))


def test_a_method_of_no_exact_budget_may_keep_fewer_and_says_so() -> None:
    @dataclass(frozen=True)
    class Fewer(Planned):
        exact: ClassVar[bool] = False

    assert run(Fewer(keep=4, give=lambda views: [Plan.keep([0], TOKENS)] * 2)).tokens_after == 2
    with pytest.raises(MethodError, match="budget is 4"):
        run(Fewer(keep=4, give=lambda views: [Plan.identity(TOKENS)] * 2))
    with pytest.raises(BudgetError, match="depends on the image"):
        foveate.tokens_after(Fewer(keep=4), [(1, 4, 4)])
