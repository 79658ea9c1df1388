"""What a method sees of one image: `View`."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from foveate.errors import SignalError

__all__ = ["NOT_AT_THE_INPUT", "SIGNALS", "TOWER_SIGNALS", "Grid", "View"]

Grid = tuple[int, int, int]
"""Frames, rows and columns of tokens."""

SIGNALS: dict[str, str] = {
    "last_attention": "attention of the last prompt token to each visual token in the layer before, mean over heads",
    "text_attention": "attention of each question token to each visual token in the layer before, mean over heads",
    "head_attention": "attention of the question tokens to each visual token in the layer before, mean over the question, one row per head",
    "next_attention": "attention of the last prompt token to each visual token that the method's own layer is about to compute",
    "queries": "queries of each visual token in the layer before, after the rotary embedding, head by head",
    "keys": "keys of each visual token in the layer before, after the rotary embedding, head by head",
    "question_keys": "keys of the question tokens in the layer before, after the rotary embedding, head by head",
    "attention_output": "output of the layer before's self-attention at each visual token, before the residual is added",
    "earlier_states": "hidden states of each visual token at the entry of the layer before",
    "question_states": "hidden states of the question tokens at the entry of the method's layer",
    "question_embeddings": "embeddings of the question tokens, as they enter the language model",
    "tower_attention": "attention that each visual token receives in the vision tower: the class token's, else the mean of all rows",
    "tower_states": "vision features of each visual token before projection",
    "projected_states": "vision features of each visual token after projection, as they enter the language model",
}
"""Signals that a method may name in `needs`; only those are computed. `states` and `grid` are always available.

Layer 0 has no layer before it. There, attention and keys are those that layer 0 is about to compute, and `NOT_AT_THE_INPUT` are not
available.
"""

NOT_AT_THE_INPUT = frozenset({"attention_output", "earlier_states"})
"""Signals that layer 0 does not have, because they are what the layer before computed."""

TOWER_SIGNALS = frozenset({"tower_attention", "tower_states"})
"""Signals that are read in the vision tower, which not all families can; the others need only the decoder."""

_PER_TOKEN = (
    *("last_attention", "next_attention", "queries", "keys", "attention_output", "earlier_states"),
    *("tower_attention", "tower_states", "projected_states", "index"),
)
_ROWS = {"text_attention": "q", "head_attention": "heads"}


@dataclass(frozen=True, eq=False)
class View:
    """One image (or video) as a method sees it at its layer. You can build one by hand from tensors.

    Args:
        states: (n, d), hidden states of the n visual tokens at the entry of the method's decoder layer.
        grid: (t, h, w), frames, rows and columns of the token grid; t = 1 for an image. (1, 1, n) if there are several
            `parts`, because together they do not form a rectangle.
        last_attention: (n,), softmax over the full row, mean over heads. Like all signals, `None` unless the method needs it.
        attention_output: (n, d).
        index: (n,), the cell of the grid (row-major) of each token; `None` if all t * h * w cells are present. After an
            earlier method of a schedule, cells are missing.
        fingerprint: an integer that depends only on the prompt and the image's place in it, not on the batch, padding or
            beams. Seeded methods mix it into their seed.
        parts: (t, h, w) of each part of an image that is shown as several crops, in the order of the tokens; `(grid,)` by
            default. All parts share the image's budget.
        kind: "image" or "video".
        text_attention: (q, n), as last_attention for each of the q question tokens. These are the real text tokens after
            the last visual token of the prompt, and in any case the prompt's last token, so q >= 1.
        head_attention: (heads, n), mean over the same question tokens, one row per attention head.
        text_after: the number of real text tokens after the last visual token of the prompt; 0 if that token ends the prompt,
            `None` if a view built by hand does not say.
        question_states: (q, d), hidden states of the same question tokens.
        next_attention: (n,), as `last_attention`, of the method's own layer.
        queries: (n, heads, c).
        keys: (n, key heads, c).
        question_keys: (q, key heads, c), of the same question tokens.
        earlier_states: (n, d). After an earlier method that acted before the layer before, those that it left.
        question_embeddings: (q, d), of the same question tokens.
        tower_attention: (n,), mean over heads; a token made from several patches has their mean.
        tower_states: (n, c); for a token made from several patches, their states may be concatenated.
        projected_states: (n, d). After an earlier method that merged, all tower signals are those of the kept token.

    Raises:
        ValueError: shapes do not fit together.
    """

    states: Tensor
    grid: Grid
    last_attention: Tensor | None = None
    attention_output: Tensor | None = None
    index: Tensor | None = None
    fingerprint: int = 0
    parts: tuple[Grid, ...] = ()
    kind: Literal["image", "video"] = "image"
    text_attention: Tensor | None = None
    head_attention: Tensor | None = None
    text_after: int | None = None
    question_states: Tensor | None = None
    tower_attention: Tensor | None = None
    tower_states: Tensor | None = None
    projected_states: Tensor | None = None
    next_attention: Tensor | None = None
    queries: Tensor | None = None
    keys: Tensor | None = None
    question_keys: Tensor | None = None
    earlier_states: Tensor | None = None
    question_embeddings: Tensor | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", self.parts or (self.grid,))
        n, cells = self.states.shape[0], math.prod(self.grid)
        if self.states.ndim != 2:
            raise ValueError(f"states must have shape (n, d), not {tuple(self.states.shape)}")
        if sum(math.prod(part) for part in self.parts) != cells:
            raise ValueError(f"parts {self.parts} do not add up to the {cells} cells of grid {self.grid}")
        if self.index is None and n != cells:
            raise ValueError(f"states has {n} rows but grid {self.grid} has {cells} cells; pass index for a partial grid")
        for name in _PER_TOKEN:
            value = getattr(self, name)
            if value is not None and value.shape[0] != n:
                raise ValueError(f"{name} has {value.shape[0]} rows, states has {n}")
        for name, rows in _ROWS.items():
            value = getattr(self, name)
            if value is not None and value.shape[1:] != (n,):
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected ({rows}, {n})")

    @property
    def text_behind(self) -> int | None:
        """The old name of `text_after`; it goes with foveate 1.0."""
        warnings.warn("View.text_behind is now View.text_after; the old name goes with foveate 1.0", DeprecationWarning, stacklevel=2)
        return self.text_after

    def __len__(self) -> int:
        """Visual tokens in view."""
        return self.states.shape[0]

    @property
    def whole(self) -> int:
        """Visual tokens before any method."""
        return math.prod(self.grid)

    def signal(self, name: str) -> Tensor:
        """A signal by name.

        Raises:
            SignalError: it was not computed.
        """
        value = getattr(self, name)
        if value is None:
            raise SignalError(
                f"this view has no {name} ({SIGNALS[name]}); name it in the method's `needs`, "
                f"or pass {name}=... when you build the view by hand"
            )
        return value
