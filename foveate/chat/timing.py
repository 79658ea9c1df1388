"""The one timer of a generation, and with it the one meaning of "vision", "prefill" and "decode" in everything that foveate reports.

    vision      pixels to features: vision tower and projector, wherever they run
    prefill     the forward pass that takes the prompt, the method included, less the vision time inside that pass
    token n     from the start to the end of the forward pass whose logits choose the n-th new token

`generate` encodes images ahead of the forward pass in newer releases of transformers, and inside it in older ones. Both give the same
prefill.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import nn

from foveate.engine.arguments import cache_of
from foveate.engine.cache import cache_bytes
from foveate.engine.clock import seconds
from foveate.engine.standins import StandIns
from foveate.errors import FoveateError
from foveate.families import Family, family_of

__all__ = ["GenerationTimer", "GenerationTimes", "Stopwatch", "inside_vision"]


class Stopwatch:
    """Points in time of work on one device: CUDA events on a GPU, which do not stop the stream, and a monotonic clock elsewhere.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> Any:
        """This point in the device's work."""
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, first: Any, last: Any) -> float:
        """Seconds from one point to a later one; waits until the device has passed the later one."""
        if self._device.type != "cuda":
            return float(last - first)
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3


class GenerationTimes:
    """What `GenerationTimer` measured of one generation.

    Attributes:
        cache_bytes: keys and values after the prefill; `None` without a cache.
    """

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch
        self._start: Any = watch.now()
        self._forward_start: Any = None
        self._ends: list[Any] = []
        self._vision: list[tuple[Any, Any]] = []
        self._vision_inside: list[tuple[Any, Any]] = []
        self.cache_bytes: int | None = None

    @property
    def vision_seconds(self) -> float | None:
        """In vision tower and projector; `None` if nothing was encoded, or the model has no encoder that can be told apart."""
        return self._sum(self._vision) if self._vision else None

    @property
    def prefill_seconds(self) -> float:
        """The forward pass that takes the prompt, less the vision time inside it."""
        return self._watch.between(self._forward_start, self._ends[0]) - self._sum(self._vision_inside)

    @property
    def first_token_seconds(self) -> float:
        """From the start to the first logits."""
        return self.token_seconds(1)

    @property
    def decode_seconds(self) -> float | None:
        """Per token after the first; `None` if there is only one."""
        return self._watch.between(self._ends[0], self._ends[-1]) / (len(self._ends) - 1) if len(self._ends) > 1 else None

    def token_seconds(self, number: int) -> float:
        """From the start to the logits of the n-th new token, counted from 1."""
        return self._watch.between(self._start, self._ends[number - 1])

    @contextlib.contextmanager
    def in_vision(self) -> Iterator[None]:
        """Time spent here is vision time."""
        inside = self._forward_start is not None and not self._ends
        begin = self._watch.now()
        yield
        span = begin, self._watch.now()
        self._vision.append(span)
        if inside:
            self._vision_inside.append(span)

    def begin_forward(self, module: nn.Module, args: Any) -> None:
        """Hook before a forward pass of the model."""
        if self._forward_start is None:
            self._forward_start = self._watch.now()

    def end_forward(self, module: nn.Module, args: Any, output: Any) -> None:
        """Hook after a forward pass of the model."""
        self._ends.append(self._watch.now())
        if len(self._ends) == 1:
            cache = cache_of(output)
            self.cache_bytes = None if cache is None else cache_bytes(cache)

    def _sum(self, spans: list[tuple[Any, Any]]) -> float:
        return sum(self._watch.between(begin, end) for begin, end in spans)


class GenerationTimer:
    """Times generations of one model, each of one prompt.

    Enter it before `foveate.compress`, so that what a method reads of the vision tower counts as the method's time and not as vision time.

        with GenerationTimer(model) as timer, foveate.compress(model, method):
            with timer.generation() as times:
                model.generate(**inputs)
        times.prefill_seconds
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        self._times: GenerationTimes | None = None
        self._inside = inside_vision(model, self._around_vision)

    def __enter__(self) -> GenerationTimer:
        self._inside.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._inside.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def generation(self) -> Iterator[GenerationTimes]:
        """Time one generation; what is yielded can be read when this has ended."""
        seconds(self._device)  # waits for earlier work, which must not count
        self._times = times = GenerationTimes(Stopwatch(self._device))
        # The first hook before a forward and the last one after it, so that the time of other hooks counts.
        hooks = [
            self._model.register_forward_pre_hook(times.begin_forward, prepend=True),
            self._model.register_forward_hook(times.end_forward),
        ]
        try:
            yield times
        finally:
            self._times = None
            for hook in hooks:
                hook.remove()

    def _around_vision(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._times is None else self._times.in_vision()


@contextlib.contextmanager
def inside_vision(model: nn.Module, around: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Enter `around()` whenever the model turns pixels into features, in vision tower and projector.

    Args:
        model: any vision-language model; one of no known family is watched at the usual names of such methods.
        around: makes a context manager for each call.
    """
    backbone, encoders = _encoders(model)
    stand_ins, busy = StandIns(backbone), False

    def watched(encode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal busy
        if busy:  # a method for videos that calls the one for images
            return encode(*args, **kwargs)
        busy = True
        try:
            with around():
                return encode(*args, **kwargs)
        finally:
            busy = False

    for name in encoders:
        if hasattr(backbone, name):
            stand_ins.put(name, watched)
    try:
        yield
    finally:
        stand_ins.remove()


def _encoders(model: nn.Module) -> tuple[nn.Module, Mapping[str, Any]]:
    """The module whose methods encode images and videos, and the names of these methods."""
    try:
        family = family_of(model)
    except FoveateError:
        return getattr(model, "model", model), Family.encoders
    return family.backbone(model), family.encoders
