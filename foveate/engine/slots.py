"""The sequence that a decoder layer sees, and how it gets shorter: pure functions of indices, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Route", "Slots", "shorten", "take"]


@dataclass(frozen=True)
class Slots:
    """A batch of sequences, padding included. On the CPU.

    Attributes:
        real: (b, n) bool, false where a slot is padding.
        input_columns: (b, n) long, the input column of each slot; -1 where a cut padded a row.
    """

    real: Tensor
    input_columns: Tensor

    @classmethod
    def of_input(cls, real: Tensor) -> Slots:
        """The sequence as it enters the decoder; `real` is (b, s)."""
        return cls(real, torch.arange(real.shape[1]).expand(real.shape[0], -1))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and slots."""
        return self.real.shape[0], self.real.shape[1]

    def of_columns(self, tokens: int) -> Tensor:
        """For each of `tokens` input columns the slot (b, tokens) that stands for it.

        A column that has no slot of its own, because it is padding or its token left, gets the real slot before it; the first real slot
        where there is none before it.
        """
        before = (self.input_columns[:, None, :] <= torch.arange(tokens)[:, None]).sum(-1) - 1
        return before.maximum((~self.real).sum(1, keepdim=True))


@dataclass(frozen=True)
class Route:
    """How one sequence becomes a shorter one.

    Attributes:
        source: (b, k) the present slot that each next slot comes from; 0 where the next slot is padding.
        target: (b, n) the next slot that each present slot goes to; meaningless where it leaves.
        slots: the next sequence.
    """

    source: Tensor
    target: Tensor
    slots: Slots


def shorten(slots: Slots, leaving: Tensor) -> Route:
    """Take the slots `leaving` (b, n), and all padding, out of a sequence. Shorter rows are padded on the left."""
    staying = slots.real & ~leaving
    counts = staying.sum(1, keepdim=True)
    width = int(counts.max())
    real = torch.arange(width) >= width - counts
    source = torch.zeros(real.shape, dtype=torch.long)
    source[real] = staying.nonzero()[:, 1]
    target = staying.long().cumsum(1) - 1 + width - counts
    return Route(source, target, Slots(real, slots.input_columns.gather(1, source).masked_fill(~real, -1)))


def take(tensor: Tensor, slots: Tensor) -> Tensor:
    """The entries `slots` (b, k) of a tensor (..., 1 or b, n, d), along its second-last dimension and on its device."""
    slots = slots.to(tensor.device)
    if slots.shape[0] == 1:
        return tensor.index_select(-2, slots[0])
    whole = tensor.expand(*tensor.shape[:-3], slots.shape[0], -1, -1)
    return whole.gather(-2, slots[..., None].expand(*whole.shape[:-2], -1, whole.shape[-1]))
