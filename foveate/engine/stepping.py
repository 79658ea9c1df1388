"""Prompts and decoding steps on static caches: what the model is given instead, so that compiled code sees a stock step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, StaticCache

from foveate.engine.arguments import cache_of, with_cache
from foveate.engine.cache import base_state
from foveate.engine.resume import positions_like
from foveate.engine.schedule import Schedule
from foveate.engine.stance import STANCE
from foveate.engine.static import StaticCut, cut_of, fill, freeze, is_static, room_in, thaw
from foveate.engine.threads import PerThread
from foveate.errors import CacheError, UnsupportedError

__all__ = ["StaticSteps", "refuse_traced_prompt"]


_PICTURES = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
"""Arguments that say without a look at the ids that there are images."""


def _traced() -> UnsupportedError:
    return UnsupportedError(
        "a prompt runs inside compiled code (torch.compile), which does not see foveate's hooks; call the uncompiled model for the prompt, "
        "or use generate, and compiled code for decoding steps only"
    )


def refuse_traced_prompt(kwargs: Mapping[str, Any]) -> None:
    """While torch.compile traces the model: a decoding step may be compiled, a prompt may not.

    Raises:
        UnsupportedError: there is more than one token.
    """
    for name in ("input_ids", "inputs_embeds"):
        given = kwargs.get(name)
        if given is not None and given.shape[1] > 1:
            raise _traced()


@dataclass
class _Prompt:
    """A prompt on its way through the model: the cache that it fills, the one that was given, and the 2-D mask over all columns."""

    dynamic: DynamicCache
    outer: StaticCache
    mask: Tensor | None


@dataclass
class _Own:
    """What one thread is doing.

    Attributes:
        new: tokens that `generate` is to decode, if it says so.
        prompt: the one that is running.
        outer: the cache on whose inner one the thread decodes.
        eager: whether compiled code steps aside for this thread.
        loop: whether a caller's own loop decodes on `outer`, not `generate`.
    """

    new: int | None = None
    prompt: _Prompt | None = None
    outer: StaticCache | None = None
    eager: bool = False
    loop: bool = False


class StaticSteps:
    """Lets a compressed model fill static caches and decode on them.

    Args:
        schedule: the cuts.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._threads = PerThread(_Own)
        self._longest: dict[int, int] = {}

    @property
    def filling(self) -> bool:
        """Whether this thread's prompt goes into a static cache."""
        return self._threads.own.prompt is not None

    def generate(self, generate: Callable[..., Any], new: int | None, *args: Any, **kwargs: Any) -> Any:
        """Call `generate`, which is to decode `new` tokens, if known; its result names the caches that its caller knows."""
        own = self._threads.own
        before, self._threads.own.new = own.new, new
        try:
            return self._with_outer(generate(*args, **kwargs))
        finally:
            own.new, own.outer = before, None
            self.leave(None)

    def forget(self) -> None:
        """This thread's passes are over, also those that were interrupted, after which no hook ran."""
        self.leave(None)
        self._threads.own.outer = None

    def prepare(self, original: Callable[..., Any], input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Stands in for `prepare_inputs_for_generation`, which runs uncompiled before every step of `generate`."""
        own, outer = self._threads.own, self._outer_of(cache_of(kwargs))
        sliced = kwargs.get("next_sequence_length")
        if sliced != 1:
            self._stand_aside(own)
        if outer is None or args:
            return original(input_ids, *args, **kwargs)
        tokens = input_ids.shape[1] if sliced is None else int(sliced)
        if tokens > 1:
            if not self._concerned(outer, input_ids, kwargs):
                return original(input_ids, **kwargs)
            return original(input_ids, **with_cache(kwargs, self._prompt(outer, tokens, kwargs.get("attention_mask"))))
        cut = cut_of(outer)
        if cut is None:
            return original(input_ids, **kwargs)
        cut.make_room(_limit(outer, cut))
        kwargs = with_cache(kwargs, cut.inner)
        positions = kwargs["position_ids"] = positions_like(cut.positions(), kwargs.get("position_ids"))
        cut.count(None)
        kwargs["attention_mask"] = self._mask(cut)
        own.outer = outer
        inputs = original(input_ids, **kwargs)
        if inputs.get("position_ids") is None:  # some models drop them, to count the cache's keys instead
            inputs["position_ids"] = positions
        return inputs

    def enter(self, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Before the model's forward, outside compiled code.

        Returns:
            other arguments, or `None` for the same.

        Raises:
            UnsupportedError: the prompt cannot be compressed into this cache, or runs in compiled code.
            CacheError: the cache is too short.
        """
        own = self._threads.own
        input_ids = kwargs.get("input_ids")
        if input_ids is None:
            return None
        cache, tokens = cache_of(kwargs), input_ids.shape[1]
        if tokens > 1:
            self._stand_aside(own)
        if not isinstance(cache, StaticCache) or not is_static(cache):
            if own.prompt is not None and own.prompt.dynamic is not cache:
                own.prompt = None  # of a call that was interrupted
            return None
        cut = cut_of(cache)
        if tokens > 1:
            if not self._concerned(cache, input_ids, kwargs):
                return None
            return with_cache(kwargs, self._prompt(cache, tokens, kwargs.get("attention_mask")))
        return None if cut is None else self._step(cache, cut, kwargs)

    def leave(self, output: Any) -> Any:
        """After the model's forward, whether it failed (`None`) or not; returns its output with the caches that the caller knows."""
        own = self._threads.own
        prompt, own.prompt = own.prompt, None
        if own.eager:
            own.eager = False
            STANCE.leave()
        if output is not None and prompt is not None and prompt.dynamic.layers:
            self._fill(prompt, own.new)
            output = _exchanged(output, prompt.dynamic, prompt.outer)
        elif output is not None:
            output = self._with_outer(output)
        if own.loop:  # the cache belongs to its caller, who may try the step again
            cut = cut_of(own.outer)
            if output is None and cut is not None:
                cut.take_back()
            own.loop, own.outer = False, None
        return output

    def _fill(self, prompt: _Prompt, new: int | None) -> None:
        """Move what the prompt left to the static cache that was given."""
        if base_state(prompt.dynamic) is None:
            fill(prompt.outer, prompt.dynamic)
            return
        batch = prompt.dynamic.layers[0].keys.shape[0]
        cut = freeze(prompt.outer, prompt.dynamic, prompt.mask, new, self._longest.get(batch, 0))
        self._longest[batch] = max(self._longest.get(batch, 0), cut.length)

    def _stand_aside(self, own: _Own) -> None:
        if not own.eager and "torch._dynamo" in sys.modules:  # else nothing is compiled, and it takes seconds to import
            try:
                STANCE.enter()
            except (RuntimeError, AssertionError) as error:  # from where it is called in compiled code, or from where that is traced
                raise _traced() from error
            own.eager = True

    def _outer_of(self, cache: Any) -> StaticCache | None:
        """The static cache that a caller means: one that was cut is known by its inner one too."""
        outer = self._threads.own.outer
        cut = cut_of(outer)
        if outer is not None and cut is not None and cache is cut.inner:
            return outer
        return cache if is_static(cache) else None

    def _concerned(self, cache: StaticCache, input_ids: Tensor, kwargs: Mapping[str, Any]) -> bool:
        """Whether a prompt on this static cache may have to be compressed, or continues one that was."""
        if cut_of(cache) is not None or any(_given(kwargs.get(name)) for name in _PICTURES):
            return True
        return bool(torch.isin(input_ids, self._schedule.placeholders.to(input_ids.device)).any())

    def _prompt(self, outer: StaticCache, tokens: int, mask: Any) -> DynamicCache:
        if not self._schedule.trim:
            raise UnsupportedError(
                "a static cache has one length for all layers, but trim_early_layers=False leaves the layers before the cut longer; use "
                "trim_early_layers=True, or the default DynamicCache"
            )
        past, limit = room_in(outer)
        if past + tokens > limit:
            raise CacheError(
                f"a prompt of {tokens} tokens after {past} does not fit into this static cache of {limit}; make one with a larger "
                "max_cache_len"
            )
        own = self._threads.own
        own.prompt = _Prompt(thaw(outer), outer, mask if isinstance(mask, Tensor) and mask.ndim == 2 else None)
        return own.prompt.dynamic

    def _step(self, outer: StaticCache, cut: StaticCut, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a caller's own decoding step, on the inner cache."""
        mask, given = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise UnsupportedError("a ready-made 4-D attention mask cannot be used on a compressed cache; pass the 2-D attention_mask")
        cut.make_room(_limit(outer, cut))
        new = None if mask is None or cut.real is None else mask[:, -1:].to(cut.real.device).bool()
        kwargs = with_cache(kwargs, cut.inner)
        if given is None or given.ndim != 2 or cut.shift.ndim != 1:
            kwargs["position_ids"] = positions_like(cut.positions(), given)
        cut.count(new)
        kwargs["attention_mask"] = self._mask(cut)
        self._threads.own.outer, self._threads.own.loop = outer, True
        return kwargs

    def _mask(self, cut: StaticCut) -> Tensor | None:
        """The 2-D mask over physical keys, of one width for good; flash kernels take its width for the number of keys."""
        if "flash" not in str(self._schedule.config._attn_implementation):
            return cut.real
        return cut.whole()[:, : cut.held]

    def _with_outer(self, output: Any) -> Any:
        outer = self._threads.own.outer
        cut = cut_of(outer)
        return output if cut is None else _exchanged(output, cut.inner, outer)


def _given(value: Any) -> bool:
    return isinstance(value, Tensor) or bool(value)


def _limit(outer: StaticCache, cut: StaticCut) -> int:
    """The most physical keys that a static cache of the outer one's length may need."""
    return int(outer.layers[0].max_cache_len) - cut.state.removed


def _exchanged(output: Any, old: Any, new: Any) -> Any:
    """A model's output, or that of `generate`, with another cache in the place of one."""
    if isinstance(output, tuple):
        return tuple(new if part is old else part for part in output)
    if isinstance(output, Mapping):
        for name in [name for name, value in output.items() if value is old]:
            output[name] = new  # type: ignore[index]
    return output
