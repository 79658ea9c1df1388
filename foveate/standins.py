"""Functions that stand in for methods of one object for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["StandIns"]


class StandIns:
    """Puts functions in the place of an object's methods, until `remove` gives it its own back.

    Args:
        owner: the object; its class is left alone.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._own: dict[str, Any] = {}

    def put(self, name: str, function: Callable[..., Any]) -> None:
        """Let `function` be called as `owner.name`."""
        self._own[name] = self._owner.__dict__.get(name)
        setattr(self._owner, name, function)

    def remove(self) -> None:
        """Leave the object as it was; safe to call twice."""
        for name, own in self._own.items():
            del self._owner.__dict__[name]
            if own is not None:
                setattr(self._owner, name, own)
        self._own = {}
