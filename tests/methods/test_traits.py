"""What lists say about a method."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from torch import Tensor

import foveate
from foveate.families.support import carriers, support
from foveate.methods import methods
from foveate.methods.traits import traits_of


@dataclass(frozen=True)
class Aimed(foveate.Method):
    """Keeps what lies near a given place.

    See https://arxiv.org/abs/1234.56789.
    """

    place: int = -1
    aim: float = 0

    def score(self, view: foveate.View) -> Tensor:
        return view.states.norm(dim=-1)


@dataclass(frozen=True, kw_only=True)
class Told(foveate.Method):
    """Keeps what it is told."""

    place: int

    def score(self, view: foveate.View) -> Tensor:
        return view.states.norm(dim=-1)


@dataclass(frozen=True)
class Fixed(foveate.SparseVLM):
    """Acts before two layers that are always the same."""

    at: tuple[int | float, ...] = (2, 4)


def test_a_method_of_a_paper_and_a_variant_of_one_are_told_apart() -> None:
    assert traits_of(foveate.FastV).paper == "2403.06764"
    assert traits_of(foveate.FastV).own
    aimed = traits_of(Aimed)
    assert (aimed.paper, aimed.own, aimed.url) == ("1234.56789", False, "https://arxiv.org/abs/1234.56789")
    assert traits_of(foveate.Random).url is None


def test_where_a_method_acts_is_that_of_its_defaults() -> None:
    assert traits_of(Aimed).acts_before == f"layer {Aimed(keep=1).layer}"
    assert traits_of(foveate.Explainer).acts_before == "layer 0 only"
    assert traits_of(foveate.PyramidDrop).acts_before == "0.25, 0.5, 0.75 of the layers"
    assert traits_of(Fixed).acts_before == "layers 2, 4"


def test_a_method_with_an_option_that_must_be_given_is_listed_without_being_made() -> None:
    told = traits_of(Told)
    assert not told.made
    assert told.given == ("the option place",)
    assert told.acts_before == "unknown"


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_method_of_foveate_reads_what_some_family_gives(name: str) -> None:
    own = traits_of(methods()[name])
    assert own.made
    assert set(own.signals) <= {signal for row in support() for signal in row.signals}
    assert "llava" in carriers(own.signals)


@pytest.mark.parametrize("name", sorted(methods()))
def test_a_method_that_reads_nothing_in_the_tower_works_in_every_family(name: str) -> None:
    own = traits_of(methods()[name])
    everywhere = {row.family for row in support()}
    assert own.anywhere == (set(carriers(own.signals)) == everywhere)
