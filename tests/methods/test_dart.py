"""DART against an example worked out by hand, and against the paper's procedure in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from methods_reference import cosine, decaying
from torch import Tensor

import foveate
from foveate.errors import InputError, OptionError, SignalError
from foveate.methods import DART
from foveate.view import View

pytestmark = pytest.mark.one_version


def make(n: int, d: int = 9, q: int = 6, seed: int = 0) -> View:
    return View(
        decaying(n, d, seed),
        (1, 1, n),
        keys=decaying(n, 8, seed + 1).view(n, 2, 4),
        question_keys=decaying(q, 8, seed + 2).view(q, 2, 4),
        question_states=decaying(q, d, seed + 3),
    )


def slow_dart(view: View, keep: int, image_pivots: int, text_pivots: int) -> list[int]:
    """The kept tokens, in loops; cosines equal to 11 digits are equal."""
    states, asked = view.states.double().numpy(), view.signal("question_states").double().numpy()

    def strongest(keys: Tensor, count: int) -> list[int]:
        norms = [sum(abs(number) for number in row) for row in keys.double().flatten(1).tolist()]
        return sorted(range(len(norms)), key=lambda token: (-norms[token], token))[:count]

    own = strongest(view.signal("keys"), min(image_pivots, keep))
    pivots: list[np.ndarray] = [states[token] for token in own]
    pivots += [asked[token] for token in strongest(view.signal("question_keys"), text_pivots)]
    kept = list(own)
    share = math.ceil((keep - len(own)) / len(pivots))
    for pivot in pivots:
        left = [token for token in range(len(states)) if token not in kept]
        least = sorted(left, key=lambda token: (round(cosine(pivot, states[token]), 11), token))
        kept += least[: min(share, keep - len(kept))]
    return sorted(kept)


def test_an_example_worked_out_by_hand() -> None:
    states = torch.tensor([[1.0, 0], [0, 1], [3, 4], [-1, 0], [4, 3]])
    # L1 norms of the keys: 2, 7, 1, 3, 3. Of the question's: 1, 5. So token 1 and the second question token are pivots.
    keys = torch.tensor([[[1.0], [-1.0]], [[3.0], [4.0]], [[0.0], [1.0]], [[-3.0], [0.0]], [[2.0], [1.0]]])
    view = View(
        states,
        (1, 1, 5),
        keys=keys,
        question_keys=torch.tensor([[[1.0]], [[-5.0]]]),
        question_states=torch.tensor([[0.0, 1.0], [2.0, 0.0]]),
    )
    method = DART(keep=3, image_pivots=1, text_pivots=1)
    # Two are left for two pivots. Cosines to token 1: 0 for 0 and 3, 0.8, 0.6: token 0, the first of equals.
    # Cosines to the question's (1, 0): token 2 has 0.6, token 3 -1, token 4 0.8: token 3.
    assert method.plan(view).to_list() == [0, 1, -1, 3, -1]
    # Of three left the first pivot takes two, 0 and 3, and the second the rest: token 2.
    assert DART(keep=4, image_pivots=1, text_pivots=1).plan(view).kept.tolist() == [0, 1, 2, 3]
    assert DART(keep=1, image_pivots=3, text_pivots=0).plan(view).kept.tolist() == [1]


@pytest.mark.parametrize(("image_pivots", "text_pivots"), [(4, 4), (1, 0), (0, 3), (9, 2), (3, 20)])
@pytest.mark.parametrize("n", [2, 7, 30])
def test_it_agrees_with_the_papers_procedure_for_every_budget(n: int, image_pivots: int, text_pivots: int) -> None:
    view = make(n, seed=n)
    for keep in range(1, n):
        plan = DART(keep, image_pivots=image_pivots, text_pivots=text_pivots).plan(view)
        assert plan.kept.tolist() == slow_dart(view, keep, image_pivots, text_pivots), keep


def test_equal_tokens_are_taken_from_the_first_on() -> None:
    same = View(
        decaying(1, 9, 0).expand(9, 9).clone(),
        (1, 3, 3),
        keys=torch.ones(9, 2, 4),
        question_keys=torch.ones(3, 2, 4),
        question_states=decaying(1, 9, 1).expand(3, 9).clone(),
    )
    assert DART(keep=5, image_pivots=2).plan(same).kept.tolist() == [0, 1, 2, 3, 4]


def test_it_asks_for_the_question_only_if_that_has_pivots() -> None:
    assert DART(keep=3).needs == {"keys", "question_keys", "question_states"}
    alone = DART(keep=3, text_pivots=0)
    assert alone.needs == {"keys"}
    view = make(9)
    assert alone.plan(View(view.states, view.grid, keys=view.keys)) == alone.plan(view)
    with pytest.raises(SignalError, match="question_keys"):
        DART(keep=3).plan(View(view.states, view.grid, keys=view.keys))


@pytest.mark.parametrize(
    "options", [{"image_pivots": -1}, {"text_pivots": 1.5}, {"image_pivots": True}, {"image_pivots": 0, "text_pivots": 0}]
)
def test_numbers_of_pivots_that_make_no_sense_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="pivots"):
        DART(keep=3, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["states", "keys", "question_keys", "question_states"])
def test_nan_has_no_order(name: str) -> None:
    view = make(9)
    getattr(view, name).flatten()[3] = math.nan
    with pytest.raises(InputError, match="NaN or infinity, so DART cannot compare"):
        DART(keep=3, image_pivots=9, text_pivots=9).plan(view)


def test_the_whole_budget_is_the_identity_and_needs_no_signal() -> None:
    assert DART(keep=1.0).plan(View(decaying(4, 3, 0), (1, 2, 2))).is_identity
    assert foveate.tokens_after(DART(keep=0.25), [(1, 24, 24), (2, 4, 4)]) == [144, 8]
