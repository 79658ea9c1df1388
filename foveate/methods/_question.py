"""The question as methods compare it with visual tokens."""

from __future__ import annotations

from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError
from foveate.methods._features import unit_rows
from foveate.view import View

__all__ = ["question_units"]


def question_units(view: View, method: str) -> Tensor:
    """The question's states (q, d) scaled to length 1, float64.

    Raises:
        InputError: they contain NaN or infinity; on an accelerator once the pass has been launched.
    """
    states = view.signal("question_states")
    require(
        states.isfinite().all(),
        lambda: InputError(
            f"the question's states contain NaN or infinity, so {method} cannot compare them with visual tokens; check the model's dtype"
        ),
        [view],
    )
    return unit_rows(states)
