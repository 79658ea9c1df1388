"""Controls that only the analysis uses. They are not methods of the library and are not listed as such."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.method import Method
from foveate.view import View

__all__ = ["Norm"]


@dataclass(frozen=True)
class Norm(Method):
    """Keeps the tokens whose hidden states are longest (L2 norm) and drops the rest: high energy, chosen without the question."""

    def score(self, view: View) -> Tensor:
        """The L2 norm of each token's hidden state, shape (n,), float32."""
        return view.states.float().norm(dim=-1)
