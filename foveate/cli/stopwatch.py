"""Timing one `generate` from outside: `Stopwatch`."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import nn

from foveate.engine.arguments import cache_of
from foveate.engine.cache import cache_bytes
from foveate.engine.clock import seconds

__all__ = ["Stopwatch"]

_TOWERS = ("vision_tower", "visual", "vision_model")


class Stopwatch:
    """Context manager around one `model.generate` of a single prompt. It hooks the model, its text decoder and its vision tower.

    Attributes:
        vision_seconds: in the vision tower; `None` if the model's tower goes by no known name.
        prefill_seconds: from the entry of the text decoder to the first logits.
        first_token_seconds: from the start of `generate` to the first logits.
        decode_seconds: per token after the first; `None` if there is only one.
        prefill_cache_bytes: keys and values after the prefill; `None` without a cache.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._hooks: list[Any] = []
        self._start = 0.0
        self._tower_start = 0.0
        self._decoder_start: float | None = None
        self._ends: list[float] = []
        self.vision_seconds: float | None = None
        self.prefill_cache_bytes: int | None = None

    def __enter__(self) -> Stopwatch:
        model = self._model
        decoder = model.get_decoder()  # type: ignore[operator]
        inner = getattr(model, "model", model)
        tower = next((getattr(inner, name) for name in _TOWERS if isinstance(getattr(inner, name, None), nn.Module)), None)
        # first in line before a forward and last after it, so that other hooks' time is counted
        self._hooks.append(decoder.register_forward_pre_hook(self._before_decoder, prepend=True))
        self._hooks.append(model.register_forward_hook(self._after_model))
        if tower is not None:
            self._hooks.append(tower.register_forward_pre_hook(self._before_tower, prepend=True))
            self._hooks.append(tower.register_forward_hook(self._after_tower))
        self._start = self._now()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    @property
    def prefill_seconds(self) -> float:
        return self._ends[0] - (self._decoder_start or self._start)

    @property
    def first_token_seconds(self) -> float:
        return self._ends[0] - self._start

    @property
    def decode_seconds(self) -> float | None:
        return (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1) if len(self._ends) > 1 else None

    def _now(self) -> float:
        return seconds(next(self._model.parameters()).device)

    def _before_decoder(self, module: nn.Module, args: Any) -> None:
        if self._decoder_start is None:
            self._decoder_start = self._now()

    def _before_tower(self, module: nn.Module, args: Any) -> None:
        self._tower_start = self._now()

    def _after_tower(self, module: nn.Module, args: Any, output: Any) -> None:
        self.vision_seconds = (self.vision_seconds or 0.0) + self._now() - self._tower_start

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        self._ends.append(self._now())
        if len(self._ends) == 1:
            cache = cache_of(output)
            self.prefill_cache_bytes = None if cache is None else cache_bytes(cache)
