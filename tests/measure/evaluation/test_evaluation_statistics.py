"""Intervals and tests against those of SciPy, and how the figures of a run compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from foveate.measure.evaluation.results import gather
from foveate.measure.statistics import bootstrap_mean, mcnemar, mean_interval, paired_bootstrap, wilson


@pytest.mark.parametrize(("right", "count"), [(0, 7), (7, 7), (13, 60), (850, 1000)])
def test_a_share_has_wilsons_interval(right: int, count: int) -> None:
    interval = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count) == pytest.approx((interval.low, interval.high), abs=1e-6)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (1, 0), (12, 4), (5, 30)])
def test_mcnemar_is_the_exact_binomial_test_of_the_questions_that_differ(lost: int, won: int) -> None:
    expected = stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected)


def test_the_bootstrap_agrees_with_scipys() -> None:
    values = np.random.default_rng(0).random(80)
    expected = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    assert bootstrap_mean(list(values)) == pytest.approx((expected.low, expected.high), abs=0.01)


def test_a_paired_difference_is_found_that_unpaired_scores_would_hide() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(100)
    second = first + 0.02 + rng.normal(0, 0.01, 100)
    low, high, chance = paired_bootstrap(list(first), list(second))
    assert 0 < low < 0.02 < high < 0.03
    assert chance < 0.001
    assert stats.ttest_ind(first, second).pvalue > 0.1


def test_equal_scores_do_not_differ() -> None:
    assert paired_bootstrap([0.0, 1.0, 1.0], [0.0, 1.0, 1.0]) == (0.0, 0.0, 1.0)


def test_right_and_wrong_on_a_scale_of_100_have_the_same_interval_as_on_a_scale_of_1() -> None:
    assert mean_interval([100.0, 0.0, 100.0]) == pytest.approx(tuple(100 * bound for bound in mean_interval([1.0, 0.0, 1.0])))


def cell(answers: str, scores: list[float], score: float | None = None, data: str = "same") -> dict[str, Any]:
    samples = [
        {"id": str(number), "answer": answer, "target": "a", "score": value}
        for number, (answer, value) in enumerate(zip(answers, scores, strict=True))
    ]
    took = dict.fromkeys(("tokens_at_the_cut", "mean_tokens_over_layers", "method_seconds", "seconds"), 1.0)
    return {"score": sum(scores) / len(scores) if score is None else score, "data": data, "samples": samples, **took}


def test_figures_stand_beside_the_full_model_and_the_one_without_the_image() -> None:
    cells = {
        "full": {"task": cell("aaab", [1, 1, 1, 0])},
        "blind": {"task": cell("abbb", [1, 0, 0, 0])},
        "some-4": {"task": cell("Abca", [1, 0, 0, 1])},
    }
    figures = gather(cells, {})["results"]["some-4"]["task"]
    assert figures["of_full"] == pytest.approx(2 / 3)
    assert figures["of_image"] == pytest.approx((0.5 - 0.25) / (0.75 - 0.25))
    assert figures["loyalty"] == 0.25, "only the first answer is the full model's, in other letters"
    assert (figures["lost"], figures["won"]) == (2, 1)
    assert (figures["low"], figures["high"]) == pytest.approx(wilson(2, 4))


def test_a_score_that_is_no_mean_of_its_questions_has_no_interval() -> None:
    figures = gather({"full": {"task": cell("ab", [1, 0], score=1200.0)}}, {})["results"]["full"]["task"]
    assert (figures["low"], figures["high"]) == (None, None)


def test_other_questions_are_not_compared() -> None:
    cells = {"full": {"task": cell("ab", [1, 0])}, "some-4": {"task": cell("ab", [1, 0], data="other")}}
    figures = gather(cells, {})["results"]["some-4"]["task"]
    assert figures["of_full"] is figures["loyalty"] is figures["lost"] is None


def test_the_means_go_over_tasks() -> None:
    full = {"one": cell("aa", [1, 1]), "two": cell("aa", [1, 1], score=100.0)}
    some = {"one": cell("ab", [1, 0]), "two": cell("aa", [1, 1], score=90.0)}
    mean = gather({"full": full, "some-4": some}, {})["mean"]["some-4"]
    assert mean["of_full"] == pytest.approx((0.5 + 0.9) / 2)
    assert mean["loyalty"] == 0.75
