"""Omits projections whose results are not read."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["only_rows"]


@contextmanager
def only_rows(attention: nn.Module, rows: Tensor) -> Iterator[None]:
    """Inside this context an attention module projects queries for some rows alone, and no values; all others are zero.

    Other threads that run the module meanwhile get whole projections.

    This saves nearly two of three projections in a layer that runs for a few attention rows and no further. A module without separate
    `q_proj`, `k_proj` and `v_proj` computes everything.

    Args:
        attention: the attention module.
        rows: (b, r) the rows whose queries are wanted.
    """
    named = dict(attention.named_children())
    if not {"q_proj", "k_proj", "v_proj"} <= named.keys():
        yield
        return
    with ExitStack() as stack:
        for name, wanted in (("q_proj", rows), ("v_proj", rows[:, :1])):
            narrow = _RowProjection(wanted)
            stack.callback(named[name].register_forward_pre_hook(narrow.before).remove)
            stack.callback(named[name].register_forward_hook(narrow.after).remove)
        yield


class _RowProjection:
    """Hooks that let a projection of (b, s, d) see rows (b, r) alone, in the thread that made them."""

    def __init__(self, rows: Tensor) -> None:
        self._rows, self._length = rows, 0
        self._thread = threading.get_ident()

    def before(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if threading.get_ident() != self._thread:
            return None
        states = args[0]
        self._length = states.shape[1]
        return (states.gather(1, self._where(states)), *args[1:])

    def after(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if threading.get_ident() != self._thread:
            return None
        whole = output.new_zeros(output.shape[0], self._length, output.shape[2])
        return whole.scatter(1, self._where(output), output)

    def _where(self, states: Tensor) -> Tensor:
        return self._rows.to(states.device)[..., None].expand(-1, -1, states.shape[2])
