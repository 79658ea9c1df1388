"""TokenCarve against what its authors' code returned."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from methods_reference import GOLDEN, golden_case, slow_order, slow_scores, slow_target

from foveate.methods import TokenCarve, information_contribution
from foveate.view import View

pytestmark = pytest.mark.one_version

UNTIED = [path for path in GOLDEN if "tied" not in path.stem]
ids = {"ids": lambda path: path.stem}


def view_of(case: dict[str, np.ndarray]) -> View:
    n = len(case["attention"])
    return View(torch.from_numpy(case["hidden"]), (1, 1, n), last_attention=torch.from_numpy(case["attention"]))


def test_all_seven_cases_are_there() -> None:
    assert len(GOLDEN) == 7
    assert len(UNTIED) == 6


@pytest.mark.parametrize("path", GOLDEN, **ids)
def test_information_is_that_of_the_full_decomposition(path: Path) -> None:
    case, _ = golden_case(path)
    ours = information_contribution(torch.from_numpy(case["hidden"]))
    torch.testing.assert_close(ours, torch.from_numpy(case["information"]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("path", UNTIED, **ids)
def test_the_same_tokens_stay(path: Path) -> None:
    case, weight = golden_case(path)
    assert not case["tied"]
    plan = TokenCarve(int(case["keep"]), attention_weight=weight).plan(view_of(case))
    assert plan.kept.tolist() == case["kept_index"].tolist()


@pytest.mark.parametrize("path", UNTIED, **ids)
def test_the_same_tokens_merge_into_the_same_rows(path: Path) -> None:
    case, weight = golden_case(path)
    hidden, expected = torch.from_numpy(case["hidden"]), torch.from_numpy(case["kept_hidden"])
    plan = TokenCarve(int(case["keep"]), attention_weight=weight).plan(view_of(case))
    assert torch.equal(plan.merge(hidden), expected)


def test_the_tied_case_follows_our_tie_rule_and_theirs_is_another_order_of_the_same_ties() -> None:
    case, weight = golden_case(next(path for path in GOLDEN if path not in UNTIED))
    keep, survivors = int(case["keep"]), int(1.5 * int(case["keep"]))
    scores = slow_scores(case["hidden"], case["attention"], weight)
    order = slow_order(scores)
    plan = TokenCarve(keep, attention_weight=weight).plan(view_of(case))
    assert plan.to_list() == slow_target(case["hidden"], order, keep)

    outcomes = [order]
    for border in (survivors // 2, survivors):
        tied = [i for i, token in enumerate(order) if scores[token] == scores[order[border]]]
        outcomes = [
            [*outcome[: tied[0]], *swapped, *outcome[tied[-1] + 1 :]]
            for outcome in outcomes
            for swapped in permutations(outcome[tied[0] : tied[-1] + 1])
        ]
    kept = [[i for i, t in enumerate(slow_target(case["hidden"], outcome, keep)) if i == t] for outcome in outcomes]
    assert len(kept) > 1
    assert case["kept_index"].tolist() in kept
    assert plan.kept.tolist() in kept


@pytest.mark.parametrize("path", GOLDEN, **ids)
def test_the_fast_scores_keep_nearly_the_same_tokens(path: Path) -> None:
    case, weight = golden_case(path)
    keep = int(case["keep"])
    exact, fast = (TokenCarve(keep, attention_weight=weight, information=kind).plan(view_of(case)) for kind in ("exact", "fast"))
    shared = len(set(exact.kept.tolist()) & set(fast.kept.tolist()))
    assert shared / keep >= (0.95 if len(exact) == 576 else 0.85)
