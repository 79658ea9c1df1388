"""Compression that is in place on one model: `Handle` wires hooks to the forward pass of the thread that reaches them."""

from __future__ import annotations

import functools
from types import TracebackType
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from foveate.engine.arguments import named, parameters_of
from foveate.engine.compiled import CompiledUse
from foveate.engine.encoders import Encoders
from foveate.engine.forward import ForwardPass
from foveate.engine.hooks import AttachedHook
from foveate.engine.late import LateReport
from foveate.engine.schedule import Schedule
from foveate.engine.standins import StandIns
from foveate.engine.stepping import StaticSteps, refuse_traced_prompt
from foveate.engine.surroundings import check_generation, generation_options, new_tokens, refuse_continuous_batching
from foveate.engine.threads import PerThread
from foveate.families import Family
from foveate.families.base import TOWER_SIGNALS
from foveate.report import Report

__all__ = ["Handle", "handle_on"]

Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]


class Handle:
    """Compression that is in place on one model. Made by `compress`.

    Several threads may run the model at once: what belongs to a forward pass belongs to its thread. A copy of the model
    (`copy.deepcopy`, pickling) has its own handle, which `foveate.handle_of` finds.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._encoders = Encoders(schedule.model, schedule.family, schedule.needs & TOWER_SIGNALS)
        self._passes = PerThread(functools.partial(ForwardPass, schedule, self._encoders, self._publish))
        self._latest = LateReport.of(Report())
        self._static = StaticSteps(schedule)
        self._hooks = self._attach()
        self._stand_ins = StandIns(schedule.model)
        if hasattr(schedule.model, "generate"):
            self._stand_ins.put("generate", self._guarded_generate)
            self._stand_ins.put("prepare_inputs_for_generation", self._static.prepare)
        if hasattr(schedule.model, "init_continuous_batching"):
            self._stand_ins.put("init_continuous_batching", refuse_continuous_batching)

    @property
    def report(self) -> Report:
        """What the last prefill did, of this thread or, where that ran none, of any. Empty before the first and after text alone.

        It is made on first reading: on an accelerator that waits until the prefill is over, which the prefill itself does not.
        """
        own = self._passes.own.report
        return (self._latest if own is None else own).read()

    @property
    def compiled(self) -> CompiledUse | None:
        """How prefills ran under `compress(..., compiled=True)`, of all threads; `None` without it."""
        late = self._schedule.late
        return None if late is None else late.use

    @property
    def model(self) -> nn.Module:
        """The model that is compressed, without any PEFT wrapper."""
        return self._schedule.model

    @property
    def active(self) -> bool:
        """Whether the handle is still in place."""
        return bool(self._hooks)

    def remove(self) -> None:
        """Leave the model as it was; safe to call twice, not while another thread is inside the model's forward.

        Caches compressed so far need a new handle to be decoded on.
        """
        if not self._hooks:
            return
        self._passes.own.forget()
        self._static.forget()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._encoders.remove()
        self._stand_ins.remove()
        if self._schedule.late is not None:
            self._schedule.late.clear()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def __repr__(self) -> str:
        removed = "" if self.active else " (removed)"
        return f"<foveate handle on {type(self._schedule.model).__name__}: {self._schedule}{removed}>"

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            raise AttributeError(
                f"a handle cannot be changed ({name} = {value!r}); call remove(), then foveate.compress(model, method) with another method "
                f"than {self._schedule}"
            )
        super().__setattr__(name, value)

    def _publish(self, report: LateReport) -> None:
        self._latest = report

    def _attach(self) -> list[AttachedHook]:
        schedule = self._schedule
        model, backbone, decoder = schedule.model, schedule.backbone, schedule.decoder
        self._names = {place: parameters_of(module) for place, module in {"model": model, "backbone": backbone, "decoder": decoder}.items()}
        hooks = [
            AttachedHook(model, "forward_pre", self._before_model, with_kwargs=True),
            AttachedHook(model, "forward", self._after_model, always_call=True),
            AttachedHook(backbone, "forward_pre", self._before_backbone, with_kwargs=True),
            AttachedHook(backbone, "forward", self._after_backbone, always_call=True),
            AttachedHook(decoder, "forward_pre", self._before_decoder, with_kwargs=True),
            AttachedHook(decoder, "forward", self._after_decoder),
        ]
        for index, layer in enumerate(schedule.layers):
            hooks.append(AttachedHook(layer, "forward_pre", functools.partial(self._before_layer, index), with_kwargs=True))
            if schedule.family.injects:
                hooks.append(AttachedHook(layer, "forward", functools.partial(self._after_layer, index)))
            if "attention_output" in schedule.needs_at(index + 1):
                attention = schedule.family.attention(layer)
                hooks.append(AttachedHook(attention, "forward", functools.partial(self._after_attention, index)))
        return hooks

    def _guarded_generate(self, generate: Any, *args: Any, **kwargs: Any) -> Any:
        model, options = self._schedule.model, generation_options(generate, args, kwargs)
        check_generation(model, options)
        own = self._passes.own
        before, own.generating = own.generating, True
        try:
            return self._static.generate(generate, new_tokens(model, options), *args, **kwargs)
        finally:
            own.generating = before

    # A decoding step may be compiled: then no hook does anything, so that none is in the compiled code.

    def _before_model(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        args, kwargs = named(self._names["model"], args, kwargs)
        if is_dynamo_compiling():
            refuse_traced_prompt(kwargs)
            return None
        changed = self._static.enter(kwargs)
        self._passes.own.enter_model(kwargs if changed is None else changed)
        return None if changed is None else (args, changed)

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> Any:
        if is_dynamo_compiling():
            return None
        self._passes.own.leave_model(failed=output is None)
        return self._static.leave(output)

    def _before_backbone(self, module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        kwargs = named(self._names["backbone"], args, kwargs)[1]
        if is_dynamo_compiling():
            refuse_traced_prompt(kwargs)
        else:
            self._passes.own.enter_backbone(module, kwargs, static=self._static.filling)

    def _after_backbone(self, module: nn.Module, args: Any, output: Any) -> None:
        if not is_dynamo_compiling():
            self._passes.own.forget()

    def _before_decoder(self, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        args, kwargs = named(self._names["decoder"], args, kwargs)
        if is_dynamo_compiling():
            refuse_traced_prompt(kwargs)
            return None
        return (args, kwargs) if self._passes.own.enter_decoder(kwargs) else None

    def _after_decoder(self, module: nn.Module, args: Any, output: Any) -> Any:
        return None if is_dynamo_compiling() else self._passes.own.leave_decoder(output)

    def _before_layer(self, index: int, module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        return None if is_dynamo_compiling() else self._passes.own.running.before_layer(index, args, kwargs)

    def _after_layer(self, index: int, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return None if is_dynamo_compiling() else self._passes.own.running.after_layer(index, output)

    def _after_attention(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        if not is_dynamo_compiling():
            self._passes.own.running.after_attention(index, output[0])


def handle_on(model: nn.Module, family: Family) -> Handle | None:
    """The handle that is in place on a model, found by the model's own hooks, so that it is right for copies too."""
    hooks = family.decoder(model)._forward_pre_hooks.values()
    owners = (getattr(hook, "__self__", None) for hook in hooks)
    return next((owner for owner in owners if isinstance(owner, Handle) and owner.active), None)
