"""What is read in the vision tower while it encodes."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.clock import Spans
from foveate.engine.signals.attention import ReceivedProbe

__all__ = ["TowerProbe"]


class TowerProbe:
    """Reads vision-tower attention and the features before projection, during one call of the encoder in this thread.

    Args:
        attention: the attention module to read, or `None`.
        class_token: whether its sequences begin with a class token.
        projector: the module whose first argument is the features before projection, or `None`.
    """

    def __init__(self, attention: nn.Module | None, class_token: bool, projector: nn.Module | None) -> None:
        self._received = ReceivedProbe(attention, class_token) if attention is not None else None
        self._states: list[Tensor] = []
        self._thread = threading.get_ident()
        self._hook = projector.register_forward_pre_hook(self._before_projector, with_kwargs=True) if projector is not None else None

    def detach(self) -> None:
        """Leave the tower as it was; safe to call twice."""
        if self._received is not None:
            self._received.detach()
        if self._hook is not None:
            self._hook.remove()

    def read(self) -> dict[str, Tensor]:
        """What was seen, as rows in the tower's order: "tower_attention" (p, 1) and "tower_states" (p, c)."""
        found = {}
        if self._received is not None and self._received.received:
            found["tower_attention"] = torch.cat([part.flatten() for part in self._received.received])[:, None]
        if self._states:
            found["tower_states"] = torch.cat(self._states)
        return found

    @property
    def spent(self) -> Spans:
        """Time that reading attention took."""
        return self._received.spent if self._received is not None else Spans()

    def _before_projector(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if threading.get_ident() != self._thread:
            return
        states: Tensor = args[0] if args else next(iter(kwargs.values()))
        self._states.append(states.detach().reshape(-1, states.shape[-1]))
