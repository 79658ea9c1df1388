"""How the host and an accelerator work side by side: copies that neither waits for, one copy where several would do, and late checks."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Checks", "fetch", "require", "upload"]


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; from the host to an accelerator, or between accelerators, without a wait."""
    if tensor.device == device:
        return tensor
    if device.type == "cpu":
        return tensor.cpu()
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # from other memory the host waits until it is read
    return tensor.to(device, non_blocking=True)


def fetch(tensors: Sequence[Tensor | None]) -> list[Any]:
    """Integer or bool tensors on the CPU; those of one accelerator come in one copy, as int64, and those on the CPU stay as they are."""
    found: list[Any] = list(tensors)
    for device in {tensor.device for tensor in tensors if tensor is not None} - {torch.device("cpu")}:
        places = [place for place, tensor in enumerate(tensors) if tensor is not None and tensor.device == device]
        packed = torch.cat([found[place].reshape(-1).long() for place in places]).cpu()
        parts = packed.split([found[place].numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            found[place] = part.view(found[place].shape)
    return found


@dataclass
class _Check:
    """A condition that is not yet known on the host: its values, the error if it does not hold, and what each value is about."""

    ok: Tensor
    error: Callable[[], Exception]
    names: list[str]

    def look(self, holds: bool | None = None) -> None:
        if holds is None:
            holds = bool(self.ok.all())
        if not holds:
            first = self.ok.reshape(-1).tolist().index(False)
            raise _about(self.error(), self.names[first] if first < len(self.names) else next(iter(self.names), ""))


@dataclass
class Checks:
    """Conditions of one forward pass on an accelerator, which are looked at together once everything has been launched.

    Attributes:
        names: what is known of objects that conditions are about, by `id`; errors end in it.
    """

    names: dict[int, str] = field(default_factory=dict)
    _waiting: list[_Check] = field(default_factory=list)

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Inside this context `require` of this thread leaves conditions on accelerators to `settle`."""
        before, _LOCAL.checks = getattr(_LOCAL, "checks", None), self
        try:
            yield
        finally:
            _LOCAL.checks = before

    def add(self, check: _Check) -> None:
        """Look at a condition later."""
        self._waiting.append(check)

    def settle(self) -> None:
        """Look at all conditions, in one copy.

        Raises:
            FoveateError: the error of the first that does not hold.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            device = waiting[0].ok.device
            held = torch.stack([upload(check.ok.all(), device) for check in waiting]).tolist()
            for check, holds in zip(waiting, held, strict=True):
                check.look(holds)


_LOCAL = threading.local()


def require(ok: Tensor, error: Callable[[], Exception], about: Sequence[Any] = ()) -> None:
    """Raise `error()` unless a condition holds: at once on a CPU and outside a forward pass, else once that pass has been launched.

    Args:
        ok: bool, () or one value for each of `about`.
        error: makes the error; in a forward pass its message is extended by the place of the picture that it is about.
        about: the views that the values are about.

    Raises:
        Exception: what `error` returned.
    """
    checks: Checks | None = getattr(_LOCAL, "checks", None)
    names = [] if checks is None else [checks.names.get(id(each), "") for each in about]
    check = _Check(ok, error, names)
    if checks is None or ok.device.type == "cpu":
        check.look()
    else:
        checks.add(check)


def _about(error: Exception, name: str) -> Exception:
    if name and error.args:
        error.args = (f"{error.args[0]} ({name})", *error.args[1:])
    return error
