"""Host time inside hooks on a model's forward passes."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any
from unittest import mock

from torch import nn

__all__ = ["HookTime"]


class HookTime:
    """A context manager that times every forward hook registered inside it, on any module.

    On a CPU this is the arithmetic of the hooks and their Python; on an accelerator, their Python, their launches, and their waits for
    the device. A hook that runs inside another one counts once.

    Attributes:
        seconds: on the host, so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._patches = [
            mock.patch.object(nn.Module, name, self._registering(getattr(nn.Module, name)))
            for name in ("register_forward_pre_hook", "register_forward_hook")
        ]

    def __enter__(self) -> HookTime:
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for patch in self._patches:
            patch.stop()

    def _registering(self, register: Callable[..., Any]) -> Callable[..., Any]:
        def registered(module: nn.Module, hook: Callable[..., Any], **options: Any) -> Any:
            return register(module, _TimedHook(hook, self), **options)

        return registered

    def run(self, hook: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Call a hook and count its time, unless it is inside another one."""
        self._depth += 1
        start = time.perf_counter()
        try:
            return hook(*args)
        finally:
            self._depth -= 1
            if not self._depth:
                self.seconds += time.perf_counter() - start


class _TimedHook:
    """A hook that still says whose method it is, by which a handle finds itself on a model."""

    def __init__(self, hook: Callable[..., Any], time_of: HookTime) -> None:
        self._hook, self._time = hook, time_of
        self.__self__ = getattr(hook, "__self__", None)

    def __call__(self, *args: Any) -> Any:
        return self._time.run(self._hook, args)
