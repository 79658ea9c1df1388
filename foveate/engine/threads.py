"""State of one forward pass, which belongs to the thread that runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["PerThread"]

T = TypeVar("T")


class PerThread(Generic[T]):
    """One value per thread, made on first use. Copies and pickles start empty, because they belong to no running pass.

    Args:
        make: makes a thread's value.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._local = threading.local()

    @property
    def own(self) -> T:
        """This thread's value."""
        try:
            value: T = self._local.value
        except AttributeError:
            value = self._local.value = self._make()
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return PerThread, (self._make,)
