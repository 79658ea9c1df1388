"""Decoder layers that compiled code has already run return the states that they are given."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import nn

__all__ = ["Bypass", "Bypassed"]


class Bypassed:
    """Stands in for the forward of one layer.

    An object rather than a closure, so that a copy of the layer that is made meanwhile calls the copy's forward.

    Args:
        layer: its own forward is that of its class.
        threads: idents of the threads that bypass it.
    """

    def __init__(self, layer: nn.Module, threads: set[int]) -> None:
        self._layer, self._threads = layer, threads

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() in self._threads:
            return args[0] if args else kwargs["hidden_states"]
        return type(self._layer).forward(self._layer, *args, **kwargs)


class Bypass:
    """Lets the layers' forward return its input, for the threads that ask for it and for as long as they do.

    The stand-ins are in place only during prefills, so that no decoding step, compiled or not, ever meets them.

    Args:
        layers: their hooks run as ever.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._bypassing: set[int] = set()
        self._present: set[int] = set()
        self._places = [(layer.__dict__, Bypassed(layer, self._bypassing)) for layer in layers]
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Before this thread calls the first of the layers: a module looks its forward up before its hooks run."""
        with self._lock:
            self._present.add(threading.get_ident())
            for attributes, stand_in in self._places:
                attributes.setdefault("forward", stand_in)

    def enter(self) -> None:
        """From now on this thread's layers are bypassed."""
        self._bypassing.add(threading.get_ident())

    def leave(self) -> None:
        """This thread's layers run again; safe to call at any time."""
        thread = threading.get_ident()
        if thread not in self._present:
            return
        with self._lock:
            self._bypassing.discard(thread)
            self._present.discard(thread)
            if not self._present:
                for attributes, stand_in in self._places:
                    if attributes.get("forward") is stand_in:
                        del attributes["forward"]
