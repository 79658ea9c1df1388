"""Information contribution scores, exact and fast."""

from __future__ import annotations

import pytest
import torch
from methods_reference import GOLDEN, decaying, golden_case, slow_information

from foveate.errors import InputError
from foveate.measure.bench.flops import OperationCounter
from foveate.methods import information_contribution

pytestmark = pytest.mark.one_version

SHAPES = [(1, 1), (1, 9), (9, 1), (5, 5), (12, 40), (40, 12), (30, 200), (200, 30), (150, 100)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_exact_scores_are_those_of_the_full_decomposition(n: int, d: int, dtype: torch.dtype) -> None:
    states = decaying(n, d, n).to(dtype)
    scores = information_contribution(states)
    assert scores.shape == (n,)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.double(), torch.from_numpy(slow_information(states.double().numpy())), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("n", "d"), [(n, d) for n, d in SHAPES if min(n, d) <= 64])
def test_fast_scores_are_exact_where_few_directions_are_all(n: int, d: int) -> None:
    states = decaying(n, d, n)
    torch.testing.assert_close(information_contribution(states, "fast"), information_contribution(states), rtol=2e-4, atol=0)


@pytest.mark.parametrize(("power", "shared"), [(0.5, 0.78), (1.0, 0.93), (2.0, 0.98)])
def test_fast_scores_rank_nearly_alike_on_decaying_spectra(power: float, shared: float) -> None:
    states = spectrum(300, 400, torch.arange(1, 301).double() ** -power)
    exact, fast = (information_contribution(states, kind) for kind in ("exact", "fast"))  # type: ignore[arg-type]
    best = [set(scores.topk(100).indices.tolist()) for scores in (exact, fast)]
    assert len(best[0] & best[1]) / 100 >= shared
    assert float(fast.mean() / exact.mean()) == pytest.approx(1, abs=0.05)


def test_fast_scores_rank_real_hidden_states_nearly_alike() -> None:
    for path in GOLDEN:
        hidden = torch.from_numpy(golden_case(path)[0]["hidden"])
        exact, fast = (information_contribution(hidden, kind).argsort().argsort().double() for kind in ("exact", "fast"))  # type: ignore[arg-type]
        assert float(torch.corrcoef(torch.stack([exact, fast]))[0, 1]) > 0.98


@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize(("n", "d"), [(20, 150), (150, 20), (150, 100)])
def test_a_batch_is_scored_as_its_images_one_by_one(n: int, d: int, method: str) -> None:
    batch = torch.stack([decaying(n, d, seed) for seed in range(4)])
    together = information_contribution(batch, method)  # type: ignore[arg-type]
    alone = torch.stack([information_contribution(image, method) for image in batch])  # type: ignore[arg-type]
    assert torch.equal(together, alone)


@pytest.mark.parametrize("method", ["exact", "fast"])
def test_degenerate_states_have_finite_scores(method: str) -> None:
    low_rank = torch.randn(150, 3, generator=torch.Generator().manual_seed(0)) @ decaying(3, 100, 1)
    for states in (torch.zeros(150, 100), torch.ones(150, 100), torch.eye(150), low_rank, 1e-12 * low_rank, 1e6 * low_rank):
        scores = information_contribution(states, method)  # type: ignore[arg-type]
        assert scores.isfinite().all()
        assert (scores >= 0).all()
    torch.testing.assert_close(
        information_contribution(low_rank, method).double(),  # type: ignore[arg-type]
        torch.from_numpy(slow_information(low_rank.numpy())),
        rtol=2e-4,
        atol=0,
    )


@pytest.mark.parametrize("tall", [False, True])
def test_equal_tokens_have_equal_exact_scores(tall: bool) -> None:
    states = decaying(20, 15 if tall else 60, 0)
    states = states[torch.arange(20) // 2]
    scores = information_contribution(states)
    assert torch.equal(scores[::2], scores[1::2])


def test_a_permutation_of_the_tokens_permutes_their_scores() -> None:
    states, order = decaying(60, 100, 0), torch.randperm(60, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(information_contribution(states[order]), information_contribution(states)[order], rtol=1e-6, atol=0)


def test_the_global_random_state_is_left_alone_and_the_result_is_the_same_again() -> None:
    states = decaying(150, 100, 0)
    state = torch.random.get_rng_state()
    first = information_contribution(states, "fast")
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(information_contribution(states, "fast"), first)


@pytest.mark.parametrize("method", ["exact", "fast"])
def test_autocast_and_gradients_change_nothing(method: str) -> None:
    states = decaying(150, 100, 0)
    plain = information_contribution(states, method)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        scores = information_contribution(states.clone().requires_grad_(), method)  # type: ignore[arg-type]
    assert torch.equal(scores, plain)
    assert not scores.requires_grad


@pytest.mark.parametrize("method", ["exact", "fast"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_refused(value: float, method: str) -> None:
    batch = torch.stack([decaying(150, 100, seed) for seed in range(3)])
    batch[1, 7, 5] = value
    with pytest.raises(InputError, match="contain NaN or infinity"):
        information_contribution(batch, method)  # type: ignore[arg-type]


def test_arguments_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(ValueError, match="'quick' is not known; choose 'auto', 'exact' or 'fast'"):
        information_contribution(torch.zeros(3, 3), "quick")  # type: ignore[arg-type]
    for states in (torch.zeros(3), torch.zeros(2, 2, 3, 3), torch.zeros(3, 3, dtype=torch.long), torch.zeros(0, 3), torch.zeros(0, 3, 3)):
        with pytest.raises(ValueError, match="states must be a floating tensor"):
            information_contribution(states)


@pytest.mark.parametrize(("n", "d"), [(60, 100), (100, 40)])
def test_the_operations_of_exact_scores_are_counted_wherever_they_run(n: int, d: int) -> None:
    with OperationCounter() as counter:
        information_contribution(decaying(n, d, 0))
    side = min(n, d)
    last = 2 * n * d * side if n > d else 2 * side**2
    gram = 2 * max(n, d) * side**2 * 5 // 8  # four strips of the lower half
    assert counter.total == gram + 9 * side**3 + last


def spectrum(n: int, d: int, singular: torch.Tensor) -> torch.Tensor:
    """States (n, d) with these singular values and random directions."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(m, len(singular), generator=generator, dtype=torch.float64)).Q for m in (n, d))
    return (left * singular @ right.mT).float()
