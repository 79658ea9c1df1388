"""What happens to the visual tokens of one image: `Plan`, an integer map from which everything else follows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from foveate.devices import upload

__all__ = ["DROPPED", "Plan"]

DROPPED = -1
"""Value of `Plan.target` for a dropped token."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Where each of the n visual tokens of one image goes.

    Args:
        target: integer tensor of shape (n,). `target[i] == i`: token i stays. `target[i] == j`: it is merged into the
            kept token j. `target[i] == -1`: it is dropped. It is moved to the CPU once, because everything that follows
            from a plan (lengths, positions, pictures) is needed there.
        order: the merged tokens (m,) in the order in which a mean adds them, for results that are exact to the last bit.
            `None`: ascending. It does not affect equality, and `then` and `to_list` ignore it.

    Raises:
        ValueError: `target` is not a one-dimensional integer map, points outside -1..n-1, points at a token that is not
            kept, or keeps nothing.
    """

    target: Tensor
    order: Tensor | None = None

    def __post_init__(self) -> None:
        target = torch.as_tensor(self.target)
        if target.ndim != 1 or target.is_floating_point() or target.dtype == torch.bool or target.numel() == 0:
            raise ValueError(f"Plan.target must be a non-empty integer tensor of shape (n,), not {tuple(target.shape)} {target.dtype}")
        target = target.detach().cpu().long()
        object.__setattr__(self, "target", target)
        if int(target.min()) < DROPPED or int(target.max()) >= target.numel():
            raise ValueError(f"Plan.target must lie in -1..{target.numel() - 1}; found {int(target.min())}..{int(target.max())}")
        if self.kept.numel() == 0:
            raise ValueError("Plan.target keeps no token; at least one must stay (target[i] == i)")
        present = target[target != DROPPED]
        if bool((target[present] != present).any()):
            bad = int(present[target[present] != present][0])
            raise ValueError(f"Plan.target merges into token {bad}, which is not kept; merge into a kept token")
        if self.order is not None:
            order = self.order.detach().cpu().long()
            object.__setattr__(self, "order", order)
            if not torch.equal(order.sort().values, self.merged):
                raise ValueError(f"Plan.order must name each of the {self.merged.numel()} merged tokens once")

    @classmethod
    def identity(cls, tokens: int) -> Plan:
        """The plan that keeps all of `tokens` tokens."""
        return cls(torch.arange(tokens))

    @classmethod
    def keep(cls, kept: Tensor | Sequence[int], tokens: int) -> Plan:
        """The plan that keeps the tokens `kept` (k,) of `tokens` and drops the rest."""
        kept = torch.as_tensor(kept, dtype=torch.long).cpu()
        target = torch.full((tokens,), DROPPED)
        target[kept] = kept
        return cls(target)

    @staticmethod
    def deferred(target: Tensor, tokens_after: int, order: Tensor | None = None) -> Plan:
        """A plan that stays on its device: its values are copied and checked when somebody reads it, so making it never waits.

        For methods that know how many tokens they keep. In a prefill the values are checked on the device.

        Args:
            target: as in `Plan`, int64 on any device.
            tokens_after: how many tokens it keeps.
            order: as in `Plan`, on the same device; `None` means here that nothing is merged.

        Raises:
            ValueError: a tensor has another shape or dtype, or `tokens_after` is not in 1..n.
        """
        for name, tensor in {"target": target, "order": order}.items():
            if tensor is not None and (tensor.ndim != 1 or tensor.dtype != torch.long or tensor.numel() == 0):
                raise ValueError(
                    f"Plan.deferred takes {name} as a non-empty int64 tensor of one dimension, not {tuple(tensor.shape)} {tensor.dtype}"
                )
        if not 1 <= tokens_after <= target.numel():
            raise ValueError(f"Plan.deferred: tokens_after must lie in 1..{target.numel()}, not {tokens_after}")
        return _Deferred(target, tokens_after, order)

    @property
    def sound(self) -> Tensor | None:
        """Whether a deferred plan is one, as a bool () on its device; `None` for any other plan, which has been checked. Never waits."""
        return None

    def on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """`target` (n,), and the merged tokens (m,) in the order of adding, on a device; `None` if nothing is merged. Never waits."""
        if not self.merged.numel():
            return upload(self.target, device), None
        return upload(self.target, device), upload(self.merged if self.order is None else self.order, device)

    def cpu(self) -> Plan:
        """The same plan on the CPU, checked; a deferred one is copied and checked now.

        Raises:
            ValueError: a deferred plan is none, or keeps another number of tokens than it was said to.
        """
        return self

    @property
    def merges(self) -> bool:
        """Whether any token is merged into another."""
        return self.merged.numel() > 0

    def __len__(self) -> int:
        """Tokens before the plan."""
        return self.target.numel()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and len(self) == len(other) and torch.equal(self.target, other.target)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Plan({len(self)} -> {self.tokens_after}: {self.merged.numel()} merged, {self.dropped.numel()} dropped)"

    @cached_property
    def _stays(self) -> Tensor:
        return self.target == torch.arange(len(self))

    @cached_property
    def kept(self) -> Tensor:
        """Indices of the kept tokens, ascending, shape (k,)."""
        return self._stays.nonzero().squeeze(1)

    @cached_property
    def merged(self) -> Tensor:
        """Indices of the tokens that are merged into another, ascending, shape (m,)."""
        return (~self._stays & (self.target != DROPPED)).nonzero().squeeze(1)

    @cached_property
    def dropped(self) -> Tensor:
        """Indices of the dropped tokens, ascending."""
        return (self.target == DROPPED).nonzero().squeeze(1)

    @property
    def tokens_after(self) -> int:
        """How many tokens are kept."""
        return self.kept.numel()

    @property
    def is_identity(self) -> bool:
        """Whether every token is kept."""
        return self.tokens_after == len(self)

    def merge(self, states: Tensor) -> Tensor:
        """Apply the plan: each kept row becomes the plain mean of itself and the rows merged into it.

        Args:
            states: (n, d), any floating dtype. Means are computed in at least float32. Rows that nothing is merged into are
                returned bit for bit.

        Returns:
            (k, d) in the dtype of `states`, in ascending order of the kept indices.

        Raises:
            ValueError: `states` does not have n rows.
        """
        if states.ndim != 2 or states.shape[0] != len(self):
            raise ValueError(f"this plan is for {len(self)} tokens; states has shape {tuple(states.shape)}, expected ({len(self)}, d)")
        device = states.device
        out = states[self.kept.to(device)]
        if self.merged.numel() == 0:
            return out
        order = self.merged if self.order is None else self.order
        rows = torch.searchsorted(self.kept, self.target[order])
        uniques = torch.unique(rows, return_inverse=True, return_counts=True)
        merged, touched, slot, sources = (x.to(device) for x in (order, *uniques))
        exact = torch.promote_types(states.dtype, torch.float32)
        total = out[touched].to(exact).index_add(0, slot, states[merged].to(exact))
        return out.index_copy(0, touched, (total / (sources + 1).unsqueeze(1)).to(states.dtype))

    def then(self, later: Plan) -> Plan:
        """The plan that has the effect of this one followed by `later`, whose tokens are those that this one keeps.

        Raises:
            ValueError: `later` is not for as many tokens as this plan keeps.
        """
        if len(later) != self.tokens_after:
            raise ValueError(f"the later plan is for {len(later)} tokens, but this one keeps {self.tokens_after}")
        target, kept, after = self.target, self.kept, later.target
        slot = torch.searchsorted(kept, target.clamp(min=0)).clamp(max=kept.numel() - 1)
        moved = after[slot]
        composed = torch.where(moved == DROPPED, moved, kept[moved.clamp(min=0)])
        return Plan(torch.where(target == DROPPED, target, composed))

    def to_list(self) -> list[int]:
        """The map as plain integers, for JSON."""
        return self.target.tolist()

    @classmethod
    def from_list(cls, target: Iterable[int]) -> Plan:
        """The inverse of `to_list`."""
        return cls(torch.tensor(list(target), dtype=torch.long))


class _Deferred(Plan):
    """See `Plan.deferred`."""

    def __init__(self, target: Tensor, tokens_after: int, order: Tensor | None) -> None:
        self.__dict__.update(_target=target, _order=order, _tokens_after=tokens_after)

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan, (self.target, self.order)

    def __len__(self) -> int:
        return self.__dict__["_target"].numel()  # type: ignore[no-any-return]

    @cached_property
    def _read(self) -> Plan:
        own = self.__dict__
        plan = Plan(own["_target"], own["_order"])
        if plan.tokens_after != own["_tokens_after"] or (own["_order"] is None and plan.merged.numel()):
            raise ValueError(
                f"Plan.deferred was told of {own['_tokens_after']} kept tokens and {0 if own['_order'] is None else own['_order'].numel()} "
                f"merged ones, but its target keeps {plan.tokens_after} and merges {plan.merged.numel()}"
            )
        return plan

    @cached_property
    def target(self) -> Tensor:  # type: ignore[override]
        return self._read.target

    @cached_property
    def order(self) -> Tensor | None:  # type: ignore[override]
        return self._read.order

    def cpu(self) -> Plan:
        return self._read

    @property
    def sound(self) -> Tensor | None:
        target, order = self.__dict__["_target"], self.__dict__["_order"]
        places = torch.arange(len(target), device=target.device)
        goes = target.clamp(0, len(target) - 1)
        sound = ((target == DROPPED) | ((target == goes) & (target[goes] == goes))).all() & ((target == places).sum() == self.tokens_after)
        merged = (target != DROPPED) & (target != places)
        if order is None:
            return sound & ~merged.any()
        named = torch.zeros_like(target).index_add_(0, order.clamp(0, len(target) - 1), torch.ones_like(order))
        return sound & (named == merged).all() & (order >= 0).all() & (order < len(target)).all()

    @property
    def tokens_after(self) -> int:
        return self.__dict__["_tokens_after"]  # type: ignore[no-any-return]

    @property
    def merges(self) -> bool:
        return self.__dict__["_order"] is not None

    def on(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        target, order = self.__dict__["_target"], self.__dict__["_order"]
        return upload(target, device), None if order is None else upload(order, device)
