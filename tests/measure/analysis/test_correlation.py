"""Correlation over cells, within groups and over questions, against SciPy and by construction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from foveate.measure.analysis.correlation import correlation, estimate, over_questions, permutation_p, ranks, resamples

pytestmark = pytest.mark.one_version


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_one_group_gives_pearson_and_of_ranks_spearman() -> None:
    x, y = draw(20, 1, 1), draw(20, 1, 1, seed=1)
    y[:6] = y[0]  # ties
    assert correlation(x, y)[0] == pytest.approx(stats.pearsonr(x[:, 0, 0], y[:, 0, 0]).statistic)
    assert correlation(ranks(x), ranks(y))[0] == pytest.approx(stats.spearmanr(x[:, 0, 0], y[:, 0, 0]).statistic)


def test_ranks_are_those_of_scipy_along_the_first_axis() -> None:
    values = np.round(draw(9, 3, 2), 0)
    np.testing.assert_array_equal(ranks(values), stats.rankdata(values, axis=0))


def test_what_both_owe_to_the_group_is_taken_out() -> None:
    budget = np.array([0.0, 50.0, 100.0])[None, :, None]
    x, y = draw(6, 3, 1), draw(6, 3, 1, seed=1)
    assert correlation((x + budget).reshape(18, 1, 1), (y + budget).reshape(18, 1, 1))[0] > 0.99
    assert correlation(x + budget, y + 3 * budget)[0] == pytest.approx(correlation(x, y)[0])


def test_questions_that_weigh_twice_count_twice() -> None:
    x, y = draw(4, 3, 5), draw(4, 3, 5, seed=1)
    weights = np.array([[2.0, 1.0, 1.0, 0.0, 1.0]])
    repeated = [0, 0, 1, 2, 4]
    expected = over_questions(x[..., repeated], y[..., repeated], np.ones((1, 5)))
    assert over_questions(x, y, weights)[0] == pytest.approx(expected[0])


def test_a_constant_has_no_correlation() -> None:
    found = correlation(draw(5, 2, 3), np.full((5, 2, 3), 0.7))
    assert np.isnan(found).all()
    assert estimate(found).value is None


def test_clusters_are_resampled_as_a_whole_and_the_first_row_is_the_sample_itself() -> None:
    weights = resamples([3, 3, 8, 8, 8, 5], 50)
    assert weights.shape == (51, 6)
    assert (weights[0] == 1).all()
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 2] == weights[:, 4]).all()
    assert (weights[1:, [0, 2, 5]].sum(1) == 3).all()
    assert weights[1:].std() > 0


def test_an_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = draw(400)
    weights = resamples(range(400), 2000)
    found = estimate(weights @ values / weights.sum(1))
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)


def test_a_perfect_order_of_methods_has_the_smallest_p_that_their_number_allows() -> None:
    x = np.arange(4.0)[:, None] + draw(4, 6) / 100
    # its own order, and no other with the same absolute correlation but the reverse
    assert permutation_p(ranks(x), ranks(x)) == pytest.approx(2 / 24)


def test_unrelated_methods_have_a_large_p() -> None:
    x, y = np.array([1.0, 2.0, 3.0, 4.0])[:, None], np.array([2.0, 4.0, 1.0, 3.0])[:, None]
    assert permutation_p(x, y) > 0.5
