"""What is read in the vision tower while it encodes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.clock import Spans
from foveate.engine.signals.attention import ReceivedProbe

__all__ = ["TowerProbe", "reading_now"]

_reading = threading.local()
"""The probe of each thread that has not been detached yet."""


def reading_now() -> TowerProbe | None:
    """The probe that reads in this thread, if any."""
    probe: TowerProbe | None = getattr(_reading, "probe", None)
    return probe


class TowerProbe:
    """Reads vision-tower attention and the features before projection, during one call of the encoder in this thread.

    Args:
        attention: the attention module to read, or `None`.
        class_token: whether its sequences begin with a class token.
        projector: the module whose first argument is the features before projection, or `None`.

    Attributes:
        wanted: the names of the signals that it reads.
    """

    def __init__(self, attention: nn.Module | None, class_token: bool, projector: nn.Module | None) -> None:
        self._received = ReceivedProbe(attention, class_token) if attention is not None else None
        self._states: list[Tensor] = []
        read = {"tower_attention": attention, "tower_states": projector}
        self.wanted = frozenset(name for name, module in read.items() if module is not None)
        self._thread = threading.get_ident()
        self._hook = projector.register_forward_pre_hook(self._before_projector, with_kwargs=True) if projector is not None else None
        self._outer, _reading.probe = reading_now(), self

    def detach(self) -> None:
        """Leave the tower as it was; safe to call twice."""
        if self._received is not None:
            self._received.detach()
        if self._hook is not None:
            self._hook.remove()
        if reading_now() is self:
            _reading.probe = self._outer

    def read(self, earlier: Mapping[str, int] | None = None) -> dict[str, Tensor]:
        """What was seen, as rows in the tower's order: "tower_attention" (p, 1) and "tower_states" (p, c).

        Args:
            earlier: what `seen` returned before; only what was seen since is read.
        """
        first = earlier or {"tower_attention": 0, "tower_states": 0}
        received = self._received.received[first["tower_attention"] :] if self._received is not None else []
        states = self._states[first["tower_states"] :]
        found = {}
        if received:
            found["tower_attention"] = torch.cat([part.flatten() for part in received])[:, None]
        if states:
            found["tower_states"] = torch.cat(states)
        return found

    @property
    def seen(self) -> dict[str, int]:
        """How many parts of each signal were seen so far."""
        return {"tower_attention": len(self._received.received) if self._received is not None else 0, "tower_states": len(self._states)}

    def show(self, signals: Mapping[str, Tensor]) -> None:
        """Take what `read` returned for pictures that the tower does not encode again as seen now."""
        if self._received is not None and "tower_attention" in signals:
            self._received.received.append(signals["tower_attention"])
        if "tower_states" in self.wanted and "tower_states" in signals:
            self._states.append(signals["tower_states"])

    @property
    def spent(self) -> Spans:
        """Time that reading attention took."""
        return self._received.spent if self._received is not None else Spans()

    def _before_projector(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            return
        states: Tensor = args[0] if args else next(iter(kwargs.values()))
        self._states.append(states.detach().reshape(-1, states.shape[-1]))
