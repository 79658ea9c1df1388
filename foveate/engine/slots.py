"""The sequence that a decoder layer sees, and how it gets shorter: functions of indices, on the device of the sequence, without a wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from foveate.devices import upload

__all__ = ["Route", "Slots", "averaged", "last_tokens", "shorten", "take"]


@dataclass(frozen=True)
class Slots:
    """A batch of sequences, padding included.

    Attributes:
        real: (b, n) bool on the CPU, false where a slot is padding.
        input_columns: (b, n) long, the input column of each slot; -1 where a cut padded a row. On the device of the sequence.
    """

    real: Tensor
    input_columns: Tensor

    @classmethod
    def of_input(cls, real: Tensor, device: torch.device | None = None) -> Slots:
        """The sequence as it enters the decoder on `device`, by default the CPU; `real` is (b, s)."""
        return cls(real, torch.arange(real.shape[1], device=device).expand(real.shape[0], -1))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and slots."""
        return self.real.shape[0], self.real.shape[1]

    @cached_property
    def counts(self) -> list[int]:
        """Real slots of each row."""
        return self.real.sum(1).tolist()

    @cached_property
    def total(self) -> int:
        """Real slots of all rows."""
        return sum(self.counts)

    @cached_property
    def padded(self) -> bool:
        """Whether any slot is padding."""
        return min(self.counts) < self.real.shape[1]

    def of_columns(self, tokens: int) -> Tensor:
        """For each of `tokens` input columns the slot (b, tokens) that stands for it.

        A column that has no slot of its own, because it is padding or its token left, gets the real slot before it; the first real slot
        where there is none before it.
        """
        columns = self.input_columns.contiguous()  # ascending
        asked = torch.arange(tokens, device=columns.device).expand(len(columns), -1).contiguous()
        before = torch.searchsorted(columns, asked, right=True) - 1
        return before.maximum(upload((~self.real).sum(1, keepdim=True), columns.device))


@dataclass(frozen=True)
class Route:
    """How one sequence becomes a shorter one. On the device of the sequence.

    Attributes:
        source: (b, k) the present slot that each next slot comes from; 0 where the next slot is padding.
        target: (b, n) the next slot that each present slot goes to; meaningless where it leaves.
        slots: the next sequence.
    """

    source: Tensor
    target: Tensor
    slots: Slots


def shorten(slots: Slots, leaving: Tensor, counts: Sequence[int] | None = None) -> Route:
    """Take the slots `leaving` (b, n), and all padding, out of a sequence. Shorter rows are padded on the left.

    Args:
        slots: the present sequence.
        leaving: (b, n) bool, on the device of the sequence.
        counts: how many slots of each row remain; `None` if that must be read, for which the host waits.
    """
    staying = ~leaving
    if slots.padded:
        staying &= upload(slots.real, leaving.device)
    order = staying.cumsum(1)
    counts = order[:, -1].tolist() if counts is None else list(counts)
    width = max(counts)
    even = min(counts) == width
    # In bounds even if `counts` are wrong, which is found out later.
    target = (order - 1 if even else order + (width - 1) - order[:, -1:]).clamp_(0, width)
    # What leaves is sent to a slot after the last one, which is cut off.
    source = torch.zeros(len(order), width + 1, dtype=torch.long, device=order.device)
    present = torch.arange(order.shape[1], device=order.device).expand_as(order)
    source = source.scatter_(1, torch.where(staying, target, width), present)[:, :width]
    columns = upload(slots.input_columns, source.device).gather(1, source)
    if even:
        return Route(source, target, Slots(torch.ones(len(order), width, dtype=torch.bool), columns))
    real = torch.arange(width) >= width - torch.tensor(counts)[:, None]
    return Route(source, target, Slots(real, columns.masked_fill(upload(~real, columns.device), -1)))


def last_tokens(real: Tensor) -> Tensor:
    """Each row's last real token (b,), of `real` (b, s)."""
    return (real * torch.arange(1, real.shape[1] + 1)).argmax(1)


def take(tensor: Tensor, slots: Tensor) -> Tensor:
    """The entries `slots` (b, k) of a tensor (..., 1 or b, n, d), along its second-last dimension and on its device."""
    slots = upload(slots, tensor.device)
    if slots.shape[0] == 1:
        return tensor.index_select(-2, slots[0])
    whole = tensor.expand(*tensor.shape[:-3], slots.shape[0], -1, -1)
    return whole.gather(-2, slots[..., None].expand(*whole.shape[:-2], -1, whole.shape[-1]))


def averaged(rows: Tensor, into: Tensor, added: Tensor) -> Tensor:
    """Make rows the plain mean of themselves and of others that are merged into them.

    Args:
        rows: (r, d), any floating dtype; means are computed in at least float32. All other rows are returned bit for bit.
        into: (m,) the row that each of the others is merged into.
        added: (m, d) the others, in the order of adding.
    """
    exact = torch.promote_types(rows.dtype, torch.float32)
    total = rows.to(exact).index_add(0, into, added.to(exact))
    parts = torch.ones(len(rows), dtype=exact, device=rows.device).index_add_(0, into, torch.ones_like(into, dtype=exact))
    # Rows that several are merged into are written several times, with the same values.
    means = total.index_select(0, into) / parts.index_select(0, into).unsqueeze(1)
    return rows.index_copy(0, into, means.to(rows.dtype))
