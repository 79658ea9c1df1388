"""Whether compiled code runs, or steps aside for the functions that it was made of. That belongs to the process, not to a thread."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["STANCE", "steps_aside"]


class _Stance:
    """Makes compiled code step aside while prompts run, in whichever threads."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._forced: Any = None

    def enter(self) -> None:
        """A prompt begins.

        Raises:
            RuntimeError: it runs inside compiled code.
        """
        with self._lock:
            if not self._inside:
                self._force()
            self._inside += 1

    def leave(self) -> None:
        """A prompt has ended."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._forced.__exit__(None, None, None)

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """Inside a prompt, for compiled code that is a part of it. Prompts of other threads neither begin nor end meanwhile."""
        with self._lock:
            forced = self._inside > 0
            if forced:
                self._forced.__exit__(None, None, None)
            try:
                yield
            finally:
                if forced:
                    self._force()

    def _force(self) -> None:
        self._forced = torch.compiler.set_stance("force_eager")  # type: ignore[no-untyped-call]


STANCE = _Stance()


def steps_aside() -> bool:
    """Whether compiled code steps aside now."""
    # There is a setter alone. The module is loaded as soon as anything is compiled; before, no stance can have been set.
    stance = getattr(sys.modules.get("torch._dynamo.eval_frame"), "_stance", None)
    return getattr(stance, "stance", "default") == "force_eager"
