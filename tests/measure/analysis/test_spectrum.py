"""Effective rank and energy ranks, on known spectra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.measure.analysis.spectrum import effective_rank, energy_rank, information, singular_values

pytestmark = pytest.mark.one_version


def with_spectrum(values: list[float], n: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A matrix (n, d) with these singular values and random directions."""
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(n, len(values), generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(d, len(values), generator=generator, dtype=torch.float64))
    return (left * torch.tensor(values, dtype=torch.float64) @ right.mT).to(dtype)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30), (12, 12)])
def test_singular_values_are_those_of_a_decomposition(n: int, d: int) -> None:
    states = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(singular_values(states), torch.linalg.svdvals(states.double()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_flat_spectrum_has_as_many_effective_ranks_as_values(count: int) -> None:
    states = with_spectrum([3.0] * count, 20, 9)
    assert information(states)["effective_rank"] == pytest.approx(count)
    assert information(states)["energy_rank_99"] == count


def test_effective_rank_is_the_exponential_of_the_entropy_of_a_known_spectrum() -> None:
    shares = [0.5, 0.25, 0.125, 0.125]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert information(with_spectrum([8 * share for share in shares], 16, 6))["effective_rank"] == pytest.approx(expected)


def test_neither_scale_nor_directions_change_the_information() -> None:
    states = with_spectrum([5.0, 2.0, 1.0, 0.5], 24, 10)
    turned = 7 * states @ torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))[0]
    assert information(turned) == pytest.approx(information(states))


def test_energy_ranks_count_squares() -> None:
    # energies 81, 16, 2, 1 of 100
    states = with_spectrum([9.0, 4.0, math.sqrt(2), 1.0], 16, 8)
    assert {name: value for name, value in information(states).items() if name.startswith("energy")} == {
        "energy_rank_90": 2,
        "energy_rank_95": 2,
        "energy_rank_99": 3,
    }
    values = singular_values(states)
    assert [energy_rank(values, share) for share in (0.5, 0.81, 0.82, 0.97, 1.0)] == [1, 1, 2, 2, 4]


def test_a_matrix_of_zeros_holds_nothing() -> None:
    values = singular_values(torch.zeros(4, 3))
    assert effective_rank(values) == 0
    assert energy_rank(values, 0.9) == 0


def test_rows_that_repeat_add_no_rank() -> None:
    row = torch.randn(1, 12, generator=torch.Generator().manual_seed(4))
    assert information(row.expand(50, 12))["effective_rank"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("states", [torch.tensor([[1.0, math.nan]]), torch.tensor([[math.inf, 1.0]]), torch.zeros(0, 3), torch.zeros(3)])
def test_states_without_a_spectrum_are_refused(states: Tensor) -> None:
    with pytest.raises(InputError, match="states"):
        information(states)


@pytest.mark.parametrize("share", [0.0, 1.5, -1.0])
def test_a_share_of_energy_beyond_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        energy_rank(torch.ones(3), share)
