"""One forward pass in which visual tokens leave: `Prefill` lives from the decoder's entry to its exit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from foveate.devices import Checks
from foveate.engine.arguments import cache_of
from foveate.engine.cache import bytes_per_token, cut_layer, forget_since, physical_length
from foveate.engine.deciding import Decider
from foveate.engine.injection import Injection
from foveate.engine.inputs import DecoderInputs, PromptImages
from foveate.engine.invariants import check_argument, check_called, check_length, check_mask, check_order, check_shape
from foveate.engine.keys import Keys
from foveate.engine.late import LateReport, Outcome
from foveate.engine.readings import FROM_ATTENTION, Readings
from foveate.engine.resume import Resume
from foveate.engine.schedule import Schedule
from foveate.engine.slots import Slots, last_tokens, take
from foveate.engine.tracking import TrackedImage, next_positions, question_tokens, text_after_images, track, twin_rows
from foveate.engine.visual import VisualTokens
from foveate.errors import InputError, UnsupportedError
from foveate.method import Method
from foveate.plan import Plan

__all__ = ["Prefill"]


@dataclass(frozen=True)
class _Segment:
    """The sequence that the decoder layers from `layer` to the next cut see."""

    layer: int
    slots: Slots


class Prefill:
    """Runs the cuts of one forward pass.

    Args:
        schedule: the cuts.
        inputs: what the decoder was given.
        images: the images of the prompt.
        injection: features that the decoder adds to visual tokens after its first layers, if any.
        asked: the input columns whose logits are wanted, in any order; `None` if the caller takes those that remain.
        resume: this pass as one on a cut cache, if it is that too.
        checks: conditions of this pass that are known once the device has computed them.

    Raises:
        BudgetError, InputError, UnsupportedError: before any layer has run.
    """

    def __init__(
        self,
        schedule: Schedule,
        inputs: DecoderInputs,
        images: PromptImages,
        injection: Injection | None,
        asked: Sequence[int] | None,
        resume: Resume | None,
        checks: Checks,
    ) -> None:
        self._schedule, self._inputs, self._injection, self._resume = schedule, inputs, injection, resume
        self._checks = checks
        real = inputs.real()
        first = Slots.of_input(real, inputs.embeddings.device)
        self._segments = [_Segment(0, first)]
        self._shape = first.shape
        after = text_after_images(images.tokens, torch.isin(images.input_ids, schedule.placeholders), real)
        self._images = track(images, real, after.sum(1).tolist())
        self._tokens = VisualTokens(self._images, first, inputs.embeddings.device)
        self._readings = Readings(schedule, question_tokens(after, real), first, inputs.embeddings)
        twins = twin_rows(images.input_ids, inputs.embeddings, real, images.digests)
        self._decider = Decider(self._tokens, twins, self._readings, images.spent, checks)
        self._keys = Keys(schedule.config, inputs)
        self._next_position = next_positions(inputs.position_ids, real, inputs.past)
        self._arguments: dict[str, Any] = {}
        self._called = 0
        self._check(asked)
        self._late = schedule.late
        if self._late is not None:
            self._late.prepare()

    @property
    def deciding(self) -> bool:
        """Whether a method is at work."""
        return self._decider.deciding

    @property
    def _slots(self) -> Slots:
        """The present sequence."""
        return self._segments[-1].slots

    def before_layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Cut if a method acts before this layer, and shorten its other arguments to match.

        In place where the states stay as they are: handing arguments back takes time in every layer.
        """
        if self._resume is not None:
            self._resume.before_layer(index, args, kwargs)
        states = args[0]
        check_order(index, self._called)
        self._called += 1
        check_shape(index, states, self._shape)
        kwargs.update(self._arguments)
        cuts = index in self._schedule.cuts
        if cuts:
            check_argument(index, "position_embeddings", kwargs)
            if self._readings.looks_ahead(index):
                self._shorten_mask(index, states, kwargs)
                self._readings.look_ahead(index, self._slots, states, args[1:], kwargs)
            states = self._cut(index, self._schedule.cuts[index], states, kwargs)
            kwargs.update(self._arguments)
        self._shorten_mask(index, states, kwargs)
        self._readings.enter(index, states)
        check_mask(index, kwargs.get("attention_mask"), self._keys.held(index) + states.shape[1])
        if self._late is not None and index == self._late.first:
            states = self._late.run(states, kwargs, injecting=self._injection is not None and self._injection.reaches(index))
        self._readings.attach(index, self._slots, states.device)
        return ((states, *args[1:]), kwargs) if cuts else None

    def _shorten_mask(self, index: int, states: Tensor, kwargs: dict[str, Any]) -> None:
        """After a cut of this pass, the mask of the shorter sequence."""
        if self._arguments:
            cache = cache_of(kwargs) if self._inputs.past else None
            kwargs["attention_mask"] = self._keys.mask(index, states, self._slots, cache)

    def after_layer(self, index: int, states: Tensor) -> Tensor:
        """Add what the decoder itself would have added to its visual tokens."""
        return states if self._injection is None else self._injection.add(index, states)

    def after_attention(self, index: int, output: Tensor) -> None:
        """Note the output (b, n, d) of a layer's self-attention, which the next layer's method reads."""
        self._readings.observe(index, output)

    def finish(self, cache: Any) -> LateReport:
        """After the decoder's last layer: make the cache keep its logical length. Returns the report of what was done.

        Raises:
            FoveateError: what a method read, or what it returned, cannot be used; the cache is as it was before this pass.
        """
        self._check_cut()
        check_called(self._called, len(self._schedule.layers))
        layers = cache.layers if cache is not None else []
        try:
            self._checks.settle()
        except Exception:
            for index, layer in enumerate(layers):
                forget_since(layer, self._keys.held(index))
            raise
        bytes_before = bytes_after = 0
        for index, layer in enumerate(layers):
            segment = self._segment(index)
            check_length(index, physical_length(layer), self._keys.held(index) + segment.slots.shape[1])
            if segment is not self._segments[0]:
                first = 0 if self._schedule.trim else segment.layer
                cut_layer(layer, self._keys.state(cache, index, first, segment.slots, self._next_position))
            per_token = bytes_per_token(layer)
            bytes_before += per_token * self._segments[0].slots.total
            bytes_after += per_token * segment.slots.total
        return Outcome(self._images, bytes_before, bytes_after, self._decider.spent, self._slots.input_columns).late()

    def close(self) -> None:
        """Leave nothing in the model, after success and failure alike."""
        self._readings.clear()
        if self._late is not None:
            self._late.leave()

    def at_input_columns(self, states: Tensor) -> Tensor:
        """The decoder's output (b, k, d) spread over the input's columns (b, s, d), where `logits_to_keep` looks for them."""
        return take(states, self._slots.of_columns(self._inputs.tokens))

    def _segment(self, index: int) -> _Segment:
        """The segment whose keys the cache of layer `index` contains at the end."""
        if self._schedule.trim:
            return self._segments[-1]
        return [segment for segment in self._segments if segment.layer <= index][-1]

    def _cut(self, index: int, method: Method, states: Tensor, kwargs: dict[str, Any]) -> Tensor:
        plans = self._decider.decide(method, states, self._slots)
        self._check_merges(method, plans)
        last = index == max(self._schedule.cuts)
        with self._checks.collecting():
            route, short = self._tokens.cut(method, plans, states, self._slots, self._injection, last=last)
        cache = cache_of(kwargs)
        if cache is not None and self._schedule.trim:
            self._keys.trim(index, cache, route)
        self._keys.forget_masks()
        self._segments.append(_Segment(index, route.slots))
        self._shape = route.slots.shape
        # Gaps in the positions would look like packed sequences to the attention kernels; cos and sin carry the real ones.
        start = self._keys.held(index)
        self._arguments = {
            "position_embeddings": tuple(take(part, route.source) for part in kwargs["position_embeddings"]),
            "position_ids": torch.arange(start, start + short.shape[1], device=states.device).expand(short.shape[0], -1),
        }
        return short

    def _check(self, asked: Sequence[int] | None) -> None:
        cuts = self._schedule.cuts
        if 0 in self._slots.counts:
            raise InputError(f"row {self._slots.counts.index(0)} of the batch is padding alone, by its attention_mask; take it out")
        if self._schedule.config._attn_implementation == "flex_attention" and self._schedule.needs & FROM_ATTENTION:
            raise UnsupportedError(
                "attention rows and keys cannot be read under flex_attention, whose masks are compiled; use sdpa, eager or a flash "
                "implementation (model.set_attn_implementation), or a method without attention"
            )
        for image in self._images:
            count = image.count
            for method in cuts.values():
                count = method.remaining(count, image.tokens.grid[0], image.tokens.columns.numel())
            if count < image.count or not all(method.exact for method in cuts.values()):
                self._check_columns(image, asked)

    def _check_columns(self, image: TrackedImage, asked: Sequence[int] | None) -> None:
        """Refuse an image whose tokens the caller predicts from, because they may leave."""
        if int(last_tokens(self._slots.real)[image.row]) in image.tokens.columns:
            raise InputError(
                f"the prompt of row {image.row} ends with a visual token, which may leave, and the next token would be predicted from it; "
                "put at least one token of text after the picture (chat templates do, with add_generation_prompt=True), or keep all with "
                "keep=1.0"
            )
        wanted = set(image.tokens.columns.tolist()) & set(asked or ())
        if wanted:
            raise InputError(
                f"logits_to_keep asks for input column {min(wanted)} of row {image.row}, a visual token that may leave; ask for columns of "
                "text, or omit logits_to_keep and read handle.report.columns"
            )

    def _check_merges(self, method: Method, plans: Sequence[Plan]) -> None:
        """Refuse to merge into, or from, a token that the attention mask hides: it has no slot in what the next layer sees."""
        for image, plan in zip(self._images, plans, strict=True):
            if plan.merges and not image.shown:
                raise InputError(
                    f"attention_mask hides visual tokens of row {image.row}, and {type(method).__name__} merges them; let the mask show "
                    "the whole picture, take the picture out of the prompt, or use a method that does not merge"
                )

    def _check_cut(self) -> None:
        missing = sorted(set(self._schedule.cuts) - {segment.layer for segment in self._segments[1:]})
        if missing:
            raise UnsupportedError(
                f"the decoder ran without calling its layer {missing[0]} as a module, so no tokens left there: something skips layers or "
                "runs compiled code (torch.compile) in their place; take it out, or remove the handle"
            )
