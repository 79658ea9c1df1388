"""What the server's front sends along with each image: which features it has, how many tokens stay, and the text of its turn."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from foveate.plugins.vllm.turns import Turn

__all__ = ["ItemRequest", "field_name"]

_KEY_NUMBERS = 4


def field_name(kind: str) -> str:
    """The name under which the requests of a kind of item travel, beside its pixels."""
    return f"foveate_{kind}"


@dataclass(frozen=True)
class ItemRequest:
    """How one image or video is to be compressed.

    Attributes:
        key: 32 bytes that stand for its pixels and their processing, whatever is asked about it.
        keep: the budget, as in `Method`.
        turn: the text around it; `None` if the method does not read it.
    """

    key: bytes
    keep: int | float
    turn: Turn | None = None

    @property
    def digest(self) -> str:
        """Differs between requests whose choices may differ, given the same settings."""
        return sha256(self.pack().numpy().tobytes()).hexdigest()

    @property
    def fingerprint(self) -> int:
        """An integer for seeded methods, which depends on the image alone."""
        return int.from_bytes(self.key[:4], "little")

    def pack(self) -> Tensor:
        """The request as one int64 tensor, the only form in which data travels with an item; `unpack` is the inverse."""
        key = list(struct.unpack(f"<{_KEY_NUMBERS}q", self.key))
        share = isinstance(self.keep, float)
        keep = struct.unpack("<q", struct.pack("<d", self.keep))[0] if share else self.keep
        turn = [-1, 0] if self.turn is None else [len(self.turn.before), self.turn.question, *self.turn.before, *self.turn.after]
        return torch.tensor([*key, int(share), keep, *turn], dtype=torch.long)

    @classmethod
    def unpack(cls, packed: Tensor) -> ItemRequest:
        """Read what `pack` wrote."""
        values: list[int] = packed.tolist()
        key, (share, keep, before, question), ids = struct.pack(f"<{_KEY_NUMBERS}q", *values[:4]), values[4:8], values[8:]
        amount: int | float = struct.unpack("<d", struct.pack("<q", keep))[0] if share else keep
        turn = None if before < 0 else Turn(tuple(ids[:before]), tuple(ids[before:]), question)
        return cls(key, amount, turn)

    @classmethod
    def unpack_all(cls, packed: Tensor | Sequence[Tensor]) -> list[ItemRequest]:
        """Read those of a batch."""
        return [cls.unpack(each) for each in packed]
