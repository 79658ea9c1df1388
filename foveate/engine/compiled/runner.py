"""Runs the decoder layers after the last cut as compiled code, for a few lengths and batches, and as they are where that cannot be."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from foveate.engine.arguments import cache_of
from foveate.engine.compiled.bypass import Bypass
from foveate.engine.compiled.obstacles import KNOWN, about_call
from foveate.engine.compiled.stretch import LayerInputs, Stretch
from foveate.engine.compiled.watch import Watch
from foveate.engine.stance import STANCE, steps_aside

__all__ = ["MOST_COMPILATIONS", "MOST_TOKENS", "STEP", "CompiledLayers", "CompiledUse"]

STEP = 64
"""Code is compiled for multiples of this many tokens per row; shorter sequences are padded."""

MOST_TOKENS = 2048
"""Longer sequences, counted over all rows, run uncompiled: there the device, not the host, is the limit."""

MOST_COMPILATIONS = 8
"""Shapes for which the layers of one model are compiled; prompts of any other shape run uncompiled."""


@dataclass(frozen=True)
class CompiledUse:
    """How the prefills under `compress(..., compiled=True)` ran their layers after the last cut, over all threads.

    Attributes:
        compiled: prefills that ran them as compiled code.
        eager: prefills that ran them as they are.
        reason: why the last prefill ran them as they are; `None` if it ran compiled code, or none has run.
        compilations: how often they were compiled.
        seconds: time that compiling took, with the prefill that it was done for, in seconds.
    """

    compiled: int = 0
    eager: int = 0
    reason: str | None = None
    compilations: int = 0
    seconds: float = 0.0


class CompiledLayers:
    """The layers after the last cut of one model. Threads may share it; their compiled code runs one after the other.

    Args:
        layers: all layers of the decoder.
        first: the first one after the last cut.
        config: the decoder's, which names the attention implementation.

    Attributes:
        first: as given.
    """

    def __init__(self, layers: Sequence[nn.Module], first: int, config: Any) -> None:
        self.first = first
        self._all, self._layers, self._config = layers, layers[first:], config
        self._bypass = Bypass(self._layers)
        self._lock = threading.RLock()
        self._use = CompiledUse()
        self._failed: dict[tuple[Any, ...], str] = {}
        self._stretches: dict[tuple[Any, ...], Stretch] = {}
        self._watch = Watch(self._layers)
        self._version = 0

    def __getstate__(self) -> tuple[Sequence[nn.Module], int, Any]:
        return self._all, self.first, self._config

    def __setstate__(self, state: tuple[Sequence[nn.Module], int, Any]) -> None:
        self.__init__(*state)  # type: ignore[misc] # compiled code belongs to the modules of one model, and a copy has its own

    @property
    def use(self) -> CompiledUse:
        """How prefills ran so far."""
        return self._use

    def prepare(self) -> None:
        """A prefill of this thread begins."""
        self._bypass.prepare()

    def run(self, states: Tensor, kwargs: dict[str, Any], *, injecting: bool) -> Tensor:
        """Run the layers on a prefill's states (b, n, d), if they can run as compiled code, and let them be bypassed until `leave`.

        Args:
            states: what enters the first of the layers, after the last cut.
            kwargs: that layer's arguments by name.
            injecting: the family adds features to the output of some of these layers.

        Returns:
            the states after the last layer; or those given, where the layers must run as they are.
        """
        with self._lock:
            reason = "the decoder adds features of the picture to the output of these layers" if injecting else None
            reason = reason or self._obstacle(states, kwargs)
            found = self._compiled(states, kwargs) if reason is None else reason
            if isinstance(found, str):
                self._use = replace(self._use, reason=found, eager=self._use.eager + 1)
                return states
            self._use = replace(self._use, reason=None, compiled=self._use.compiled + 1)
        self._bypass.enter()
        return found

    def leave(self) -> None:
        """The pass of this thread has ended; safe to call at any time."""
        self._bypass.leave()

    def clear(self) -> None:
        """Give all memory back."""
        self.leave()
        with self._lock:
            self._drop()
            self._watch = Watch(self._layers)
            self._version = 0

    def _drop(self) -> None:
        self._stretches.clear()
        self._failed.clear()

    def _obstacle(self, states: Tensor, kwargs: dict[str, Any]) -> str | None:
        tokens = states.shape[0] * states.shape[1]
        if tokens > MOST_TOKENS:
            return f"{tokens} tokens remain in the batch, and layers are compiled for at most {MOST_TOKENS}"
        return about_call(self.first, states, kwargs) or self._watch.obstacle(states)

    def _compiled(self, states: Tensor, kwargs: dict[str, Any]) -> Tensor | str:
        """The states after the last layer, with keys and values in the cache; or why there are none."""
        if self._version != self._watch.version:
            self._drop()
            self._version = self._watch.version
        inputs = LayerInputs(states, tuple(kwargs["position_embeddings"]), kwargs.get("attention_mask"), _options(kwargs))
        tokens = -(-inputs.tokens // STEP) * STEP
        key = (self._config._attn_implementation, *inputs.key(tokens))
        if key in self._failed:
            return self._failed[key]
        start, new = time.perf_counter(), key not in self._stretches
        reason = self._about_compiling() if new else None
        found = self._results(key, inputs, tokens) if reason is None else reason
        if isinstance(found, str):
            return found
        states, keys, values = found
        cache = cache_of(kwargs)
        if cache is not None:
            for index, pair in enumerate(zip(keys, values, strict=True), self.first):
                cache.update(*pair, index)
        if new:
            spent = self._use.seconds + time.perf_counter() - start
            self._use = replace(self._use, compilations=self._use.compilations + 1, seconds=spent)
        return states.clone()

    def _about_compiling(self) -> str | None:
        """Why code may not be compiled for one more shape; `None` if it may."""
        if len(self._stretches) + len(self._failed) == MOST_COMPILATIONS:
            return f"the layers are compiled for {MOST_COMPILATIONS} other shapes already; bring prompts to fewer lengths and batch sizes"
        if self._watch.hooked:
            return (
                "transformers has put hooks into the layers, because output_hidden_states or output_attentions was asked for earlier, and "
                "they cannot be compiled; load the model anew"
            )
        return None

    def _results(self, key: tuple[Any, ...], inputs: LayerInputs, tokens: int) -> tuple[Tensor, list[Tensor], list[Tensor]] | str:
        """States, keys and values as `Stretch.run` gives them; or why there are none."""
        with STANCE.lifted():
            if steps_aside():
                return "compiled code is told to step aside, by torch.compiler.set_stance"
            try:
                if key not in self._stretches:
                    self._stretches[key] = Stretch(self._layers, inputs, tokens, positions="flash" not in key[0])
                return self._stretches[key].run(inputs)
            except Exception as error:  # whatever a compiler, a device or a layer's own code cannot do; nothing has changed by then
                self._stretches.pop(key, None)
                self._failed[key] = f"the layers cannot be compiled: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                return self._failed[key]


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Plain values, for which code is compiled; it returns keys and values whether the call wants them or not."""
    return {name: True if name == "use_cache" else value for name, value in kwargs.items() if name not in KNOWN}
