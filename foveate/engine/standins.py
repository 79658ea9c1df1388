"""Functions that stand in for methods of one object for a while."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["StandIns"]


class StandIn:
    """One method of one object, called through `around` until it is retired, and as it was from then on.

    An object rather than a closure, so that a copy of the owner (`copy.deepcopy`, pickling) calls the copy's method.

    Args:
        original: the object's own method.
        around: called with it and with the arguments of each call.
    """

    def __init__(self, original: Callable[..., Any], around: Callable[..., Any]) -> None:
        self.__setstate__((original, around))

    def __getstate__(self) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
        return self._original, self._around

    def __setstate__(self, state: tuple[Callable[..., Any], Callable[..., Any] | None]) -> None:
        self._original, self._around = state
        # Not the attributes: those of another stand-in would take the place of this one's.
        functools.update_wrapper(self, self._original, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._original(*args, **kwargs) if self._around is None else self._around(self._original, *args, **kwargs)

    def retire(self) -> None:
        """Stand aside; a wrapper that was put around this function meanwhile still calls it."""
        self._around = None


class StandIns:
    """Puts functions in the place of an object's methods, until `remove` gives it its own back.

    Args:
        owner: the object; its class is left alone.
    """

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._placed: dict[str, tuple[StandIn, Any]] = {}

    def put(self, name: str, around: Callable[..., Any]) -> None:
        """Let calls of `owner.name` become `around(the owner's own method, ...)`."""
        stand_in = StandIn(getattr(self._owner, name), around)
        self._placed[name] = (stand_in, self._owner.__dict__.get(name))
        setattr(self._owner, name, stand_in)

    def remove(self) -> None:
        """Leave the object as it was; safe to call twice. A function that somebody else put in the place meanwhile stays there."""
        for name, (stand_in, own) in self._placed.items():
            stand_in.retire()
            if self._owner.__dict__.get(name) is stand_in:
                del self._owner.__dict__[name]
                if own is not None:
                    setattr(self._owner, name, own)
        self._placed = {}
