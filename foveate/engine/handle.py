"""Compression that is in place on one model: `Handle` wires the engine to the model's hooks."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from torch import Tensor, nn

from foveate.engine.arguments import cache_of, named, parameters_of
from foveate.engine.cache import announce, base_state, check_cache
from foveate.engine.calls import asked_columns, check_backbone_call, check_decoder_call, check_labels, input_ids_of
from foveate.engine.encoders import Encoders
from foveate.engine.injection import Injection
from foveate.engine.invariants import check_used
from foveate.engine.prefill import Prefill
from foveate.engine.resume import Resume
from foveate.engine.standins import StandIns
from foveate.engine.surroundings import check_generation, check_not_compiled, generation_options, refuse_continuous_batching
from foveate.engine.threads import PerThread
from foveate.errors import UnsupportedError
from foveate.families import Family
from foveate.families.base import TOWER_SIGNALS
from foveate.method import Method
from foveate.report import Report

__all__ = ["Handle", "handle_on"]


@dataclass
class _Pass:
    """One thread's forward pass through the model, and what it did last.

    Attributes:
        pending: input ids and features of a pass whose images are still to be found.
        asked: the input columns whose logits the caller names; `None` for those that remain.
        prefill: the cuts of this pass, if it has any.
        resume: masks and positions of new tokens on a cut cache, if this pass has any.
        generating: whether `generate` is running.
        encoded: how often an encoder had been called when the pass began.
        compressed: whether the pass had cuts.
        report: what this thread's last prefill did.
    """

    pending: tuple[Tensor, Mapping[str, Any] | None] | None = None
    asked: list[int] | None = None
    prefill: Prefill | None = None
    resume: Resume | None = None
    generating: bool = False
    encoded: int = 0
    compressed: bool = False
    report: Report | None = None


class Handle:
    """Compression that is in place on one model. Made by `compress`.

    Several threads may run the model at once: what belongs to a forward pass belongs to its thread. A copy of the model
    (`copy.deepcopy`, pickling) is compressed by a handle of its own, which `foveate.handle_of` finds.
    """

    def __init__(self, model: nn.Module, family: Family, cuts: dict[int, Method], trim: bool) -> None:
        self._model, self._family, self._cuts, self._trim = model, family, cuts, trim
        self._needs = frozenset[str]().union(*(method.needs for method in cuts.values()))
        self._decoder = family.decoder(model)
        self._layers = list(family.layers(model))
        self._passes = PerThread(_Pass)
        self._latest = Report()
        self._hooks = self._attach()
        self._encoders = Encoders(model, family, self._needs & TOWER_SIGNALS)
        self._stand_ins = StandIns(model)
        if hasattr(model, "generate"):
            self._stand_ins.put("generate", self._guarded_generate)
        if hasattr(model, "init_continuous_batching"):
            self._stand_ins.put("init_continuous_batching", refuse_continuous_batching)

    @property
    def report(self) -> Report:
        """What the last prefill did, of this thread or, where that ran none, of any. Empty before the first and after text alone."""
        own = self._passes.own.report
        return self._latest if own is None else own

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
        self._forget()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._encoders.remove()
        self._stand_ins.remove()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def __repr__(self) -> str:
        methods = ", ".join(str(method) for method in self._cuts.values())
        return f"<foveate handle on {type(self._model).__name__}: {methods}{'' if self.active else ' (removed)'}>"

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._refuse_change(name, value)
        super().__setattr__(name, value)

    def _refuse_change(self, name: str, value: Any) -> NoReturn:
        methods = ", ".join(str(method) for method in self._cuts.values())
        raise AttributeError(
            f"a handle cannot be changed ({name} = {value!r}); call remove(), then foveate.compress(model, method) with another method "
            f"than {methods}"
        )

    def _attach(self) -> list[Any]:
        model, family, decoder = self._model, self._family, self._decoder
        backbone = family.backbone(model)
        places = {"model": model, "backbone": backbone, "decoder": decoder}
        self._names = {place: parameters_of(module) for place, module in places.items()}
        hooks = [
            model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            model.register_forward_hook(self._after_model, always_call=True),
            backbone.register_forward_pre_hook(self._before_backbone, with_kwargs=True),
            backbone.register_forward_hook(self._after_backbone, always_call=True),
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            decoder.register_forward_hook(self._after_decoder),
        ]
        for index, layer in enumerate(self._layers):
            hooks.append(layer.register_forward_pre_hook(functools.partial(self._before_layer, index), with_kwargs=True))
            if family.injects:
                hooks.append(layer.register_forward_hook(functools.partial(self._after_layer, index)))
            following = self._cuts.get(index + 1)
            if following is not None and "attention_output" in following.needs:
                hooks.append(family.attention(layer).register_forward_hook(functools.partial(self._after_attention, index)))
        return hooks

    def _guarded_generate(self, generate: Any, *args: Any, **kwargs: Any) -> Any:
        check_generation(self._model, generation_options(generate, args, kwargs))
        own = self._passes.own
        before, own.generating = own.generating, True
        try:
            return generate(*args, **kwargs)
        finally:
            own.generating = before

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        own = self._passes.own
        own.encoded, own.compressed, own.asked = self._encoders.calls, False, None
        _, given = named(self._names["model"], args, kwargs)
        check_labels(self._family, self._model, given)
        if given.get("input_ids") is not None:
            own.asked = asked_columns(given, given["input_ids"].shape[1])

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        own = self._passes.own
        own.asked = None
        if output is not None:  # of a call that has not failed
            check_used(self._encoders.calls - own.encoded, own.compressed)

    def _before_backbone(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        prefill = self._passes.own.prefill
        if prefill is not None and prefill.deciding:
            raise UnsupportedError("a method called the model that it decides for, inside its prefill; call it before, or use a copy of it")
        self._forget()
        self._encoders.enter()
        _, given = named(self._names["backbone"], args, kwargs)
        input_ids = input_ids_of(given)
        # At a decoding step looking at the token would stall an accelerator for nothing.
        if input_ids.shape[1] > 1:
            check_not_compiled(self._model, self._family)
            check_backbone_call(self._family, self._model, module, given)
            self._passes.own.pending = (input_ids, given.get("mm_encoder_outputs"))

    def _after_backbone(self, module: nn.Module, args: Any, output: Any) -> None:
        self._forget()

    def _forget(self) -> None:
        own = self._passes.own
        if own.prefill is not None:
            own.prefill.close()
        self._encoders.leave()
        announce(None)
        own.pending, own.prefill, own.resume = None, None, None

    def _find_images(self, embeddings: Tensor) -> dict[str, Any] | None:
        """What a `Prefill` must know of the images of this forward pass; `None` where there are none."""
        own = self._passes.own
        if own.pending is None:
            return None
        (input_ids, features), own.pending = own.pending, None
        input_ids = input_ids.cpu()
        seen, copies = self._encoders.seen(features)
        images = self._family.images(self._model, input_ids[::copies], seen)
        if not any(images):
            return None
        fixed = self._encoders.signals(seen, images, self._needs)
        images = [row for row in images for _ in range(copies)]
        fixed = [row for row in fixed for _ in range(copies)]
        if "projected_states" in self._needs:
            for row, tokens in enumerate(images):
                projected = [{"projected_states": embeddings[row, image.columns.to(embeddings.device)]} for image in tokens]
                fixed[row] = [{**known, **new} for known, new in zip(fixed[row], projected, strict=True)]
        return {"images": images, "fixed": fixed, "input_ids": input_ids, "spent": sum(encoding.seconds for encoding in seen)}

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        own = self._passes.own
        if own.prefill is not None:  # of a call that was interrupted: no hook after a forward runs then
            own.prefill.close()
        own.prefill, own.resume = None, None
        announce(None)
        args, kwargs = named(self._names["decoder"], args, kwargs)
        embeddings, cache = kwargs.get("inputs_embeds"), cache_of(kwargs)
        if embeddings is None:
            return None
        found = self._find_images(embeddings)
        resumed = base_state(cache) is not None
        if not found and not resumed:
            if embeddings.shape[1] > 1:
                own.report = self._latest = Report()
            return None
        if found:
            check_cache(cache)
        check_decoder_call(self._decoder, kwargs, compressing=found is not None)
        if resumed:
            kwargs |= self._resumed(cache, embeddings, kwargs, found)
        if found:
            own.prefill = self._prefill_of(found, embeddings, kwargs)
            own.compressed = True
        return args, kwargs

    def _resumed(self, cache: Any, embeddings: Tensor, kwargs: dict[str, Any], found: Mapping[str, Any] | None) -> dict[str, Any]:
        given = kwargs.get("position_ids")
        generating = self._passes.own.generating
        resume = Resume(self._decoder, cache, embeddings, kwargs.get("attention_mask"), given, generating=generating)
        if found:
            resume.keep_axes(given, single=all(image.columns.numel() == 1 for row in found["images"] for image in row))
        self._passes.own.resume = resume
        announce(cache)
        return resume.arguments

    def _prefill_of(self, found: Mapping[str, Any], embeddings: Tensor, kwargs: dict[str, Any]) -> Prefill:
        injected = self._family.injected(kwargs)
        return Prefill(
            self._model,
            self._family,
            self._layers,
            self._cuts,
            **found,
            embeddings=embeddings,
            mask=kwargs.get("attention_mask"),
            position_ids=kwargs.get("position_ids"),
            cache=cache_of(kwargs),
            injection=Injection(*injected) if injected else None,
            trim=self._trim,
            asked=self._passes.own.asked,
        )

    def _before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        own = self._passes.own
        if own.resume is not None:
            own.resume.mask(index, kwargs)  # in place, because handing arguments back takes time in every layer of every step
        if own.prefill is None:
            return None
        return (own.prefill.enter(index, args[0], args[1:], kwargs), *args[1:]), kwargs

    def _after_attention(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        prefill = self._passes.own.prefill
        if prefill is not None:
            prefill.readings.observe(index, output[0])

    def _after_layer(self, index: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        prefill = self._passes.own.prefill
        return output if prefill is None else prefill.leave(index, output)

    def _after_decoder(self, module: nn.Module, args: Any, output: Any) -> Any:
        own = self._passes.own
        announce(None)
        if own.prefill is None:
            if own.resume is not None:
                own.resume.finish()
            return None
        own.report = self._latest = own.prefill.finish(cache_of(output))
        if own.asked is not None:
            output.last_hidden_state = own.prefill.at_input_columns(output.last_hidden_state)
        return output


def handle_on(model: nn.Module, family: Family) -> Handle | None:
    """The handle that is in place on a model, found by the model's own hooks, so that it is right for copies too."""
    hooks = family.decoder(model)._forward_pre_hooks.values()
    owners = (getattr(hook, "__self__", None) for hook in hooks)
    return next((owner for owner in owners if isinstance(owner, Handle) and owner.active), None)
