"""What one compressed forward pass is given: the decoder's arguments by type, and the images of the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.engine.arguments import cache_of
from foveate.engine.cache import physical_length, real_columns
from foveate.engine.clock import Spans
from foveate.families import ImageTokens

__all__ = ["DecoderInputs", "PromptImages"]


@dataclass(frozen=True)
class DecoderInputs:
    """The arguments of one call of the text decoder.

    Attributes:
        embeddings: (b, s, d).
        mask: the 2-D mask over all logical columns, or `None`.
        position_ids: (..., 1 or b, s), or `None`.
        cache: the key/value cache, or `None`.
        past: tokens that the cache stands for.
        held: keys that each of the cache's layers holds.
        host_mask: a copy of the mask that the caller gave, on the CPU; `None` where nothing is read from it.
    """

    embeddings: Tensor
    mask: Tensor | None
    position_ids: Tensor | None
    cache: Any
    past: int
    held: tuple[int, ...]
    host_mask: Tensor | None = None

    @classmethod
    def of(cls, kwargs: Mapping[str, Any], host_mask: Tensor | None = None) -> DecoderInputs:
        """The decoder's arguments by name, before it runs."""
        cache = cache_of(kwargs)
        return cls(
            kwargs["inputs_embeds"],
            kwargs.get("attention_mask"),
            kwargs.get("position_ids"),
            cache,
            cache.get_seq_length() if cache is not None else 0,
            tuple(physical_length(layer) for layer in cache.layers) if cache is not None else (),
            host_mask,
        )

    @property
    def batch(self) -> int:
        """Rows."""
        return self.embeddings.shape[0]

    @property
    def tokens(self) -> int:
        """Input columns of this call."""
        return self.embeddings.shape[1]

    def real(self) -> Tensor:
        """Which of this call's input columns are real, (b, s) bool on the CPU."""
        return real_columns(self.host_mask, self.past, self.past + self.tokens, self.batch, torch.device("cpu"))


@dataclass(frozen=True)
class PromptImages:
    """The images and videos of one prompt.

    Attributes:
        tokens: where each lies, per row.
        signals: per row and image the signals that no layer changes, (n, ...) each: those of the vision tower, and projected states.
        input_ids: (b, s) on the CPU.
        spent: time that reading the vision tower's signals took.
        digests: (b, 2) on the CPU, equal for rows of equal embeddings; `None` where embeddings are on the CPU themselves.
    """

    tokens: Sequence[Sequence[ImageTokens]]
    signals: Sequence[Sequence[Mapping[str, Tensor]]]
    input_ids: Tensor
    spent: Spans
    digests: Tensor | None = None
