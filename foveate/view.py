"""What a method sees of one image: `View`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.errors import SignalError

__all__ = ["SIGNALS", "View"]

SIGNALS: dict[str, str] = {
    "last_attention": "attention of the last prompt token to each visual token in the layer before, mean over heads",
    "attention_output": "output of the layer before's self-attention at each visual token, before the residual is added",
}
"""Signals that a method may name in `needs`, computed only then. `states` and `grid` are always there."""


@dataclass(frozen=True, eq=False)
class View:
    """One image (or video) as a method sees it at its layer. Can be built by hand from tensors.

    Args:
        states: (n, d), hidden states of the n visual tokens at the entry of the method's decoder layer.
        grid: (t, h, w), frames, rows and columns of the token grid; t = 1 for an image.
        last_attention: (n,), softmax over the full row, mean over heads. `None` unless asked for.
        attention_output: (n, d). `None` unless asked for.
        index: (n,), which cell of the grid (row-major) each token is; `None` when all t * h * w cells are present.
            After an earlier cut of a schedule, cells are missing.
        fingerprint: an integer that depends on the prompt and the image's place in it, and on nothing else: not on the
            batch, padding or beams. Seeded methods mix it into their seed.

    Raises:
        ValueError: if shapes do not fit together.
    """

    states: Tensor
    grid: tuple[int, int, int]
    last_attention: Tensor | None = None
    attention_output: Tensor | None = None
    index: Tensor | None = None
    fingerprint: int = 0

    def __post_init__(self) -> None:
        n, cells = self.states.shape[0], self.grid[0] * self.grid[1] * self.grid[2]
        if self.states.ndim != 2:
            raise ValueError(f"states must have shape (n, d), not {tuple(self.states.shape)}")
        if self.index is None and n != cells:
            raise ValueError(f"states has {n} rows but grid {self.grid} has {cells} cells; pass index for a partial grid")
        for name in ("last_attention", "attention_output", "index"):
            value = getattr(self, name)
            if value is not None and value.shape[0] != n:
                raise ValueError(f"{name} has {value.shape[0]} rows, states has {n}")

    def __len__(self) -> int:
        """Visual tokens in view."""
        return self.states.shape[0]

    def signal(self, name: str) -> Tensor:
        """A signal by name.

        Raises:
            SignalError: if it was not computed.
        """
        value = getattr(self, name)
        if value is None:
            raise SignalError(
                f"this view has no {name} ({SIGNALS[name]}); name it in the method's `needs`, "
                f"or pass {name}=... when you build the view by hand"
            )
        return value
