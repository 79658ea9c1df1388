"""Runs the decoder layers after the last cut as graphs, one for each length and batch, and the layers themselves where that cannot be."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from foveate.engine.arguments import cache_of
from foveate.engine.graphs.bypass import Bypass
from foveate.engine.graphs.captured import Captured, LayerInputs
from foveate.engine.graphs.devices import RECORDERS, Recorder
from foveate.engine.graphs.obstacles import KNOWN, about_call
from foveate.engine.graphs.watch import Watch

__all__ = ["MOST_BYTES", "MOST_GRAPHS", "MOST_TOKENS", "STEP", "GraphUse", "Graphs"]

STEP = 32
"""Graphs are made for multiples of this many tokens per row; shorter sequences are padded."""

MOST_TOKENS = 2048
"""Longer sequences, counted over all rows, run layer by layer: there the device, not the host, is the limit."""

MOST_GRAPHS = 8
"""Graphs that are kept; the one used longest ago goes first."""

MOST_BYTES = 2**30
"""Bytes that the inputs, keys and values of all graphs take at most."""


@dataclass(frozen=True)
class GraphUse:
    """How the prefills under `compress(..., graphs=True)` ran their layers after the last cut.

    Attributes:
        replays: prefills that ran them as one graph.
        eager: prefills that ran them one by one.
        reason: why the last prefill, of any thread, ran them one by one; `None` if it ran them as a graph, or none has run.
        graphs: graphs that are kept now.
        nbytes: bytes of their inputs, keys and values, without the memory that they share for what lies between.
        seconds: time that making graphs took, in seconds, over all prefills.
    """

    replays: int = 0
    eager: int = 0
    reason: str | None = None
    graphs: int = 0
    nbytes: int = 0
    seconds: float = 0.0


class Graphs:
    """Graphs of one model's layers after the last cut. Threads may share it; their graphs run one after the other.

    Args:
        layers: all layers of the decoder.
        first: the first one after the last cut.
        config: the decoder's, which names the attention implementation; flash kernels are given no position_ids.

    Attributes:
        first: as given.
    """

    def __init__(self, layers: Sequence[nn.Module], first: int, config: Any) -> None:
        self.first = first
        self._all, self._layers, self._config = layers, layers[first:], config
        self._bypass = Bypass(self._layers)
        self._lock = threading.RLock()
        self._use = GraphUse()
        self._recorders: dict[Any, Recorder] = {}
        self._failed: dict[tuple[Any, ...], str] = {}
        self._graphs: OrderedDict[tuple[Any, ...], Captured] = OrderedDict()
        self._watch = Watch(self._layers)
        self._version = 0

    def __getstate__(self) -> tuple[Sequence[nn.Module], int, Any]:
        return self._all, self.first, self._config

    def __setstate__(self, state: tuple[Sequence[nn.Module], int, Any]) -> None:
        self.__init__(*state)  # type: ignore[misc] # graphs belong to the weights of one model, and a copy has its own

    @property
    def use(self) -> GraphUse:
        """How prefills ran so far."""
        with self._lock:
            return replace(self._use, graphs=len(self._graphs), nbytes=sum(graph.nbytes for graph in self._graphs.values()))

    def prepare(self) -> None:
        """A prefill of this thread begins."""
        self._bypass.prepare()

    def run(self, states: Tensor, kwargs: dict[str, Any], *, injecting: bool) -> Tensor:
        """Run the layers on a prefill's states (b, n, d), if they can run as a graph, and let them be bypassed until `leave`.

        Args:
            states: what enters the first of the layers, after the last cut.
            kwargs: that layer's arguments by name.
            injecting: the family adds features to the output of some of these layers.

        Returns:
            the states after the last layer; or those given, where the layers must run one by one.
        """
        with self._lock:
            reason = "the decoder adds features of the picture to the output of these layers" if injecting else None
            reason = reason or self._obstacle(states, kwargs)
            if reason is None:
                inputs = LayerInputs(states, tuple(kwargs["position_embeddings"]), kwargs.get("attention_mask"), _options(kwargs))
                found = self._graph(inputs)
                if isinstance(found, Captured):
                    with self._recorders[states.device].exclusive():
                        states = found.run(inputs, cache_of(kwargs))
                    self._bypass.enter()
                else:
                    reason = found
            done = {"replays": self._use.replays + 1} if reason is None else {"eager": self._use.eager + 1}
            self._use = replace(self._use, reason=reason, **done)
        return states

    def leave(self) -> None:
        """The pass of this thread has ended; safe to call at any time."""
        self._bypass.leave()

    def clear(self) -> None:
        """Give all memory back."""
        self.leave()
        with self._lock:
            self._drop()
            self._recorders.clear()
            self._watch = Watch(self._layers)
            self._version = 0

    def _drop(self) -> None:
        for recorder in self._recorders.values():
            recorder.settle()
        self._graphs.clear()
        self._failed.clear()

    def _obstacle(self, states: Tensor, kwargs: dict[str, Any]) -> str | None:
        if states.device.type not in RECORDERS:
            return f"the layers are on {states.device}, and graphs need a CUDA device"
        tokens = states.shape[0] * states.shape[1]
        if tokens > MOST_TOKENS:
            return f"{tokens} tokens remain in the batch, and graphs are made for at most {MOST_TOKENS}"
        return about_call(self.first, states, kwargs) or self._watch.obstacle(states)

    def _graph(self, inputs: LayerInputs) -> Captured | str:
        """The graph for these inputs, made if there is none; or why none can be made."""
        if self._version != self._watch.version:
            self._drop()
            self._version = self._watch.version
        tokens = -(-inputs.tokens // STEP) * STEP
        key = (self._config._attn_implementation, *inputs.key(tokens))
        if key not in self._graphs and key not in self._failed:
            self._make(key, inputs, tokens)
        if key in self._failed:
            return self._failed[key]
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _make(self, key: tuple[Any, ...], inputs: LayerInputs, tokens: int) -> None:
        device = inputs.states.device
        if device not in self._recorders:
            self._recorders[device] = RECORDERS[device.type](device)
        start = time.perf_counter()
        positions = "flash" not in self._config._attn_implementation
        try:
            made = Captured(self._layers, inputs, tokens, positions=positions, recorder=self._recorders[device])
        except Exception as error:  # whatever a device, a kernel or a layer's own code cannot do while it is captured
            self._failed[key] = f"the layers cannot be captured: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            return
        self._use = replace(self._use, seconds=self._use.seconds + time.perf_counter() - start)
        self._keep(key, made)

    def _keep(self, key: tuple[Any, ...], made: Captured) -> None:
        if made.nbytes > MOST_BYTES:
            self._failed[key] = (
                f"the keys and values of this graph take {made.nbytes / 2**20:.0f} MiB, the most is {MOST_BYTES / 2**20:.0f}"
            )
            return
        self._graphs[key] = made
        while len(self._graphs) > MOST_GRAPHS or sum(graph.nbytes for graph in self._graphs.values()) > MOST_BYTES:
            self._graphs.popitem(last=False)


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Plain values, which become part of the graph; it keeps keys and values whether the call wants them or not."""
    return {name: True if name == "use_cache" else value for name, value in kwargs.items() if name not in KNOWN}
