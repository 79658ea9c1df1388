"""SparseVLM against examples worked out by hand, and against the paper's steps in loops."""

from __future__ import annotations

import math

import pytest
import torch
from methods_reference import decaying
from torch import Tensor

from foveate.errors import InputError, OptionError
from foveate.methods import SparseVLM
from foveate.methods.sparsevlm import counts, density_peaks, raters
from foveate.view import View

pytestmark = pytest.mark.one_version


def make(n: int, d: int = 9, q: int = 6, seed: int = 0) -> View:
    return View(
        decaying(n, d, seed),
        (1, 1, n),
        text_attention=torch.rand(q, n, generator=torch.Generator().manual_seed(seed)) / n,
        projected_states=decaying(n, d, seed + 1),
        question_embeddings=decaying(q, d, seed + 2),
    )


def slow_raters(features: list[list[float]], question: list[list[float]]) -> list[int]:
    match = [0.0] * len(question)
    for feature in features:
        products = [sum(a * b for a, b in zip(feature, word, strict=True)) for word in question]
        parts = [math.exp(product - max(products)) for product in products]
        for word, part in enumerate(parts):
            match[word] += part / sum(parts) / len(features)
    return [word for word, value in enumerate(match) if value > sum(match) / len(match) + 1e-9] or list(range(len(question)))


def slow_clusters(points: list[list[float]], centres: int) -> dict[int, int]:
    """The centre of each point."""
    width, count = len(points[0]), len(points)
    apart = [[round(math.dist(a, b) ** 2, 9) / width for b in points] for a in points]
    spread = [sum(sorted(row)[:centres]) / centres for row in apart]
    density = [math.exp(-value) for value in spread]
    largest = max(max(row) for row in apart)
    score = []
    for i in range(count):
        denser = [apart[i][j] for j in range(count) if spread[j] < spread[i] or (spread[j] == spread[i] and j < i)]
        score.append(math.sqrt(min(denser, default=largest)) * density[i])
    chosen = sorted(sorted(range(count), key=lambda i: (-score[i], i))[:centres])
    return {i: i if i in chosen else min(chosen, key=lambda centre: (apart[i][centre], centre)) for i in range(count)}


def slow_target(view: View, keep: int) -> list[int]:
    words = slow_raters(view.signal("projected_states").double().tolist(), view.signal("question_embeddings").double().tolist())
    rows = view.signal("text_attention").double().tolist()
    score = [sum(rows[word][token] for word in words) for token in range(len(view))]
    order = sorted(range(len(view)), key=lambda token: (-score[token], token))
    stay, recycled, centres = counts(len(view), keep)
    target = [token if token in order[:stay] else -1 for token in range(len(view))]
    left = sorted(order[stay : stay + recycled])
    for i, centre in slow_clusters([view.states.double().tolist()[token] for token in left], centres).items():
        target[left[i]] = left[centre]
    return target


def test_raters_worked_out_by_hand() -> None:
    # Products of the two features with the three words: (2, 0, 0) and (2, 0, 0). The first word has a share of e^2 / (e^2 + 2) = 0.79.
    assert raters(torch.tensor([[1.0, 0], [1, 1]]), torch.tensor([[2.0, 0], [0, 0], [0, 0]])).tolist() == [True, False, False]
    # All match alike, or there is one word: all are raters.
    assert raters(torch.ones(2, 2), torch.ones(3, 2)).tolist() == [True] * 3
    assert raters(torch.ones(2, 2), torch.ones(1, 2)).tolist() == [True]


def test_clusters_worked_out_by_hand() -> None:
    # Points 0, 1, 1, 10, 11 on a line, two centres: the mean squared distance to the two nearest, itself included, is
    # 0.5, 0, 0, 0.5, 0.5. Point 1 is the densest, with the largest distance 11; point 2 is 0 away from it, point 0 1 away,
    # point 3 9 away from 2, and point 4 1 away from 3.
    points = torch.tensor([0.0, 1, 1, 10, 11], dtype=torch.float64)
    chosen, centre = density_peaks((points[:, None] - points).square(), 2)
    assert chosen.tolist() == [False, True, False, True, False]
    assert centre.tolist() == [1, 1, 1, 3, 3]


@pytest.mark.parametrize("tokens", [2, 3, 10, 35, 576])
def test_kept_and_recycled_tokens_together_meet_every_budget(tokens: int) -> None:
    for budget in range(1, tokens):
        stay, recycled, centres = counts(tokens, budget)
        assert stay + centres == budget
        assert 1 <= centres <= recycled <= tokens - stay
    assert counts(576, 64) == (48, 159, 16)


@pytest.mark.parametrize("n", [2, 7, 40])
def test_it_agrees_with_the_papers_steps_for_every_budget(n: int) -> None:
    view = make(n, seed=n)
    for keep in range(1, n):
        assert SparseVLM(keep).plan(view).to_list() == slow_target(view, keep), keep


def test_recycled_tokens_are_means_of_their_clusters() -> None:
    view = make(40)
    plan = SparseVLM(keep=6).plan(view)
    merged = plan.merge(view.states)
    assert plan.merged.numel() > 0
    for place, token in enumerate(plan.kept.tolist()):
        cluster = view.states[plan.target == token]
        torch.testing.assert_close(merged[place], cluster.mean(0))


def test_without_recycling_the_best_stay_and_nothing_is_merged() -> None:
    view = make(40)
    method = SparseVLM(keep=6, recycle=False)
    best = method.score(view).sort(descending=True, stable=True).indices[:6]
    plan = method.plan(view)
    assert plan.kept.tolist() == sorted(best.tolist())
    assert not plan.merges


def test_equal_tokens_are_taken_from_the_first_on() -> None:
    one = decaying(1, 9, 0)
    view = View(
        one.expand(20, 9).clone(),
        (1, 4, 5),
        text_attention=torch.full((3, 20), 0.01),
        projected_states=one.expand(20, 9).clone(),
        question_embeddings=decaying(3, 9, 1),
    )
    stay, recycled, centres = counts(20, 6)
    expected: Tensor = torch.full((20,), -1)
    expected[:stay] = torch.arange(stay)
    expected[stay : stay + recycled] = stay
    expected[stay : stay + centres] = torch.arange(stay, stay + centres)
    assert SparseVLM(keep=6).plan(view).to_list() == expected.tolist()


def test_what_cannot_be_ranked_is_refused() -> None:
    view = make(9)
    view.signal("text_attention")[1, 2] = math.nan
    with pytest.raises(InputError, match="text_attention contains NaN"):
        SparseVLM(keep=3).plan(view)
    broken = make(9)
    broken.states.fill_(math.nan)
    with pytest.raises(InputError, match="hidden states of an image contain NaN or infinity, so SparseVLM"):
        SparseVLM(keep=3).plan(broken)
    with pytest.raises(OptionError, match="recycle=1"):
        SparseVLM(keep=3, recycle=1)  # type: ignore[arg-type]
