"""One thread's forward passes through a compressed model: what happens at each place that hooks reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from foveate.devices import Checks, fetch, upload
from foveate.engine.arguments import cache_of
from foveate.engine.cache import announce, base_state, check_cache
from foveate.engine.calls import asked_columns, check_backbone_call, check_decoder_call, check_labels, input_ids_of
from foveate.engine.clock import Spans
from foveate.engine.encoders import Encoders, sizes_of, with_sizes
from foveate.engine.injection import Injection
from foveate.engine.inputs import DecoderInputs, PromptImages
from foveate.engine.invariants import check_used
from foveate.engine.late import LateReport
from foveate.engine.prefill import Prefill
from foveate.engine.resume import Resume
from foveate.engine.schedule import Schedule
from foveate.engine.surroundings import check_not_compiled
from foveate.engine.tracking import row_digests
from foveate.errors import UnsupportedError
from foveate.report import Report

__all__ = ["ForwardPass", "IDLE"]


class Pass(Protocol):
    """What the decoder's layers run under: a `Prefill`, a `Resume`, or nothing."""

    def before_layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None: ...

    def after_layer(self, index: int, states: Tensor) -> Tensor: ...

    def after_attention(self, index: int, output: Tensor) -> None: ...

    def close(self) -> None: ...


class _Idle:
    """Neither images nor a cut cache: every layer runs as if no handle were there."""

    def before_layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        return None

    def after_layer(self, index: int, states: Tensor) -> Tensor:
        return states

    def after_attention(self, index: int, output: Tensor) -> None:
        return None

    def close(self) -> None:
        return None


IDLE = _Idle()


class ForwardPass:
    """One thread's way through the model, from entry to exit; the same object serves every call of the thread.

    Args:
        schedule: the cuts.
        encoders: records what the vision encoder is asked.
        publish: takes each report, for threads that ran no prefill.

    Attributes:
        running: what the decoder's layers run under.
        report: what this thread's last prefill did; `None` before the first.
        generating: whether `generate` is running.
    """

    def __init__(self, schedule: Schedule, encoders: Encoders, publish: Callable[[LateReport], None]) -> None:
        self._schedule, self._encoders, self._publish = schedule, encoders, publish
        self.running: Pass = IDLE
        self.report: LateReport | None = None
        self.generating = False
        self._checks = Checks()
        self._pending: tuple[Tensor, Mapping[str, Any] | None] | None = None
        self._asked: list[int] | None = None
        self._encoded = 0
        self._compressed = False

    def enter_model(self, given: Mapping[str, Any]) -> None:
        """Before the model; `given` are its arguments by name."""
        self._encoded, self._compressed, self._asked = self._encoders.calls, False, None
        check_labels(self._schedule.family, self._schedule.model, given)
        if given.get("input_ids") is not None:
            self._asked = asked_columns(given, given["input_ids"].shape[1])

    def leave_model(self, *, failed: bool) -> None:
        """After the model."""
        self._asked = None
        if not failed:
            check_used(self._encoders.calls - self._encoded, self._compressed)

    def enter_backbone(self, backbone: nn.Module, given: Mapping[str, Any], *, static: bool = False) -> None:
        """Before the backbone; `given` are its arguments by name, and `static` says that a static cache is to be filled."""
        if isinstance(self.running, Prefill) and self.running.deciding:
            raise UnsupportedError("a method called the model that it decides for, inside its prefill; call it before, or use a copy of it")
        self.forget()
        self._encoders.enter()
        input_ids = input_ids_of(given)
        # At a decoding step looking at the token would stall an accelerator for nothing.
        if input_ids.shape[1] > 1:
            if not static:
                check_not_compiled(self._schedule.model, self._schedule.family)
            check_backbone_call(self._schedule.family, self._schedule.model, backbone, given)
            self._pending = (input_ids, given.get("mm_encoder_outputs"))

    def forget(self) -> None:
        """After the backbone, whether it failed or not; safe to call at any time."""
        self._encoders.leave()
        self._pending = None
        self._stop()

    def enter_decoder(self, kwargs: dict[str, Any]) -> bool:
        """Before the decoder: find out what its layers run under, and set its arguments `kwargs` in place.

        Returns:
            whether there is anything to do.
        """
        self._stop()  # of a call that was interrupted: no hook after a forward runs then
        if kwargs.get("inputs_embeds") is None:
            return False
        images, mask = self._find_images(kwargs["inputs_embeds"], kwargs.get("attention_mask"))
        cache = cache_of(kwargs)
        resumed = base_state(cache) is not None
        if images is None and not resumed:
            if kwargs["inputs_embeds"].shape[1] > 1:
                self._reported(LateReport.of(Report()))
            return False
        if images is not None:
            check_cache(cache)
        check_decoder_call(self._schedule.decoder, kwargs, compressing=images is not None)
        self._checks = Checks()
        resume = self._resume(kwargs, images) if resumed else None
        self.running = resume or IDLE
        if images is not None:
            self.running = self._prefill(kwargs, mask, images, resume)
            self._compressed = True
        return True

    def leave_decoder(self, output: Any) -> Any:
        """After the decoder, if it has not failed; returns its output, with states where the caller looks for them."""
        announce(None)
        if isinstance(self.running, Resume):
            self.running.finish()
        if isinstance(self.running, Prefill):
            self._reported(self.running.finish(cache_of(output)))
            if self._asked is not None:
                output.last_hidden_state = self.running.at_input_columns(output.last_hidden_state)
        return output

    def _stop(self) -> None:
        self.running.close()
        self.running = IDLE
        announce(None)

    def _reported(self, report: LateReport) -> None:
        self.report = report
        self._publish(report)

    def _find_images(self, embeddings: Tensor, mask: Any) -> tuple[PromptImages | None, Tensor | None]:
        """The images of this forward pass, `None` where there are none; and its 2-D mask on the CPU, if it was needed.

        All that the host must know of a prompt on an accelerator comes in one copy: token ids, mask, sizes of pictures, digests of rows.
        """
        if self._pending is None:
            return None, None
        (input_ids, features), self._pending = self._pending, None
        needs = self._schedule.needs
        seen, copies = self._encoders.seen(features)
        mask = mask if isinstance(mask, Tensor) and mask.ndim == 2 else None
        digests = row_digests(embeddings) if len(embeddings) > 1 and embeddings.device.type != "cpu" else None
        input_ids, mask, digests, *sizes = fetch([input_ids, mask, digests, *(size for call in seen for size in sizes_of(call))])
        seen = [with_sizes(call, sizes) for call in seen]
        images = self._schedule.family.images(self._schedule.model, input_ids[::copies], seen)
        if not any(images):
            return None, None
        signals = self._encoders.signals(seen, images, needs)
        images = [row for row in images for _ in range(copies)]
        signals = [row for row in signals for _ in range(copies)]
        if "projected_states" in needs:
            for row, tokens in enumerate(images):
                projected = [
                    {"projected_states": embeddings[row].index_select(0, upload(image.columns, embeddings.device))} for image in tokens
                ]
                signals[row] = [{**known, **new} for known, new in zip(signals[row], projected, strict=True)]
        spent = Spans()
        for encoding in seen:
            if encoding.spent is not None:
                spent.add(encoding.spent)
        return PromptImages(images, signals, input_ids, spent, digests), mask

    def _resume(self, kwargs: dict[str, Any], images: PromptImages | None) -> Resume:
        given = kwargs.get("position_ids")
        resume = Resume(self._schedule.config, DecoderInputs.of(kwargs), generating=self.generating)
        if images is not None:
            with self._checks.collecting():
                resume.keep_axes(given, single=all(image.columns.numel() == 1 for row in images.tokens for image in row))
        announce(cache_of(kwargs))
        kwargs |= resume.arguments
        return resume

    def _prefill(self, kwargs: dict[str, Any], mask: Tensor | None, images: PromptImages, resume: Resume | None) -> Prefill:
        injected = self._schedule.family.injected(kwargs)
        injection = Injection(*injected) if injected else None
        return Prefill(self._schedule, DecoderInputs.of(kwargs, mask), images, injection, self._asked, resume, self._checks)
