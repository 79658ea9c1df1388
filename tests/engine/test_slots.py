"""How a sequence gets shorter, against the same thing written out row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from foveate.engine.slots import Slots, shorten, take

PADDED = st.integers(1, 4).flatmap(
    lambda rows: st.integers(1, 9).flatmap(
        lambda width: st.lists(
            st.tuples(st.lists(st.booleans(), min_size=width, max_size=width), st.lists(st.booleans(), min_size=width, max_size=width)),
            min_size=rows,
            max_size=rows,
        )
    )
)
"""For each row: which slots are real, and which leave."""


@given(PADDED)
def test_a_route_keeps_the_order_of_what_stays_and_pads_on_the_left(rows: list[tuple[list[bool], list[bool]]]) -> None:
    real, leaving = (torch.tensor([row[part] for row in rows]) for part in (0, 1))
    real[:, -1], leaving[:, -1] = True, False  # the engine refuses rows of padding alone, and never lets the last token leave
    route = shorten(Slots.of_input(real), leaving)
    staying = [[slot for slot in range(real.shape[1]) if real[row, slot] and not leaving[row, slot]] for row in range(len(rows))]
    width = max(map(len, staying))
    for row, slots in enumerate(staying):
        padding = width - len(slots)
        assert route.slots.input_columns[row].tolist() == [-1] * padding + slots
        assert route.slots.real[row].tolist() == [False] * padding + [True] * len(slots)
        assert route.source[row, padding:].tolist() == slots
        assert route.target[row, slots].tolist() == list(range(padding, width))


@given(PADDED)
def test_two_routes_are_one(rows: list[tuple[list[bool], list[bool]]]) -> None:
    real, leaving = (torch.tensor([row[part] for row in rows]) for part in (0, 1))
    real[:, -1], leaving[:, -1] = True, False
    first = torch.arange(real.shape[1]) % 2 == 0
    once = shorten(Slots.of_input(real), leaving).slots
    half = shorten(Slots.of_input(real), leaving & first)
    rest = leaving.gather(1, half.source) & half.slots.real
    twice = shorten(half.slots, rest).slots
    assert torch.equal(twice.input_columns, once.input_columns)
    assert torch.equal(twice.real, once.real)


def test_a_route_leaves_its_input_as_it_was() -> None:
    slots = Slots.of_input(torch.tensor([[False, True, True, True]]))
    before = slots.real.clone(), slots.input_columns.clone()
    shorten(slots, torch.tensor([[False, False, True, False]]))
    assert torch.equal(slots.real, before[0])
    assert torch.equal(slots.input_columns, before[1])


def test_input_columns_that_left_stand_for_the_one_before_and_padding_for_the_first_real_token() -> None:
    slots = shorten(
        Slots.of_input(torch.tensor([[False, True, True, True, True]])), torch.tensor([[False, False, True, True, False]])
    ).slots
    assert slots.input_columns.tolist() == [[1, 4]]
    assert slots.of_columns(5).tolist() == [[0, 0, 0, 0, 1]]


@pytest.mark.filterwarnings("error")
def test_finding_the_slots_of_many_columns_needs_no_table_of_all_pairs() -> None:
    most = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            most.append(found.numel() if isinstance(found, torch.Tensor) else 1)
            return found

    slots = Slots.of_input(torch.ones(2, 300, dtype=torch.bool))
    with Largest():
        assert torch.equal(slots.of_columns(300), slots.input_columns)
    assert max(most) <= 2 * 300


def test_entries_are_taken_along_the_second_last_dimension_of_whatever_is_shared_by_rows() -> None:
    slots = torch.tensor([[0, 2], [1, 1]])
    states = torch.arange(2 * 3 * 2.0).view(2, 3, 2)
    assert torch.equal(take(states, slots), torch.stack([states[0, [0, 2]], states[1, [1, 1]]]))
    shared = states[:1]
    assert torch.equal(take(shared, slots), torch.stack([states[0, [0, 2]], states[0, [1, 1]]]))
    assert torch.equal(take(torch.stack([states, -states]), slots)[1], -take(states, slots))
