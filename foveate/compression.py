"""The one verb: `compress(model, method)` puts a method into a running, unmodified model."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from foveate.cache import Switch, base_state, check_cache, layer_state, new_columns, past_columns
from foveate.encoders import Encoders
from foveate.errors import HandleError, LayerError, SignalError, UnsupportedError, UnsupportedModelError
from foveate.explain.identity import identity
from foveate.families import Family, family_of
from foveate.families.base import TOWER_SIGNALS
from foveate.injection import Injection
from foveate.method import Method
from foveate.prefill import Prefill, causal_mask
from foveate.report import Report
from foveate.standins import StandIns
from foveate.surroundings import check_generation, check_not_compiled, generation_options, refuse_continuous_batching, unwrapped

__all__ = ["Handle", "compress", "is_compressed"]

_SWITCHES: weakref.WeakKeyDictionary[nn.Module, Switch] = weakref.WeakKeyDictionary()
"""One switch per decoder, so that a cache can be decoded under a later handle on the same model."""


def compress(model: nn.Module, method: Method | Sequence[Method], *, trim_early_layers: bool = True, clamp: bool = False) -> Handle:
    """Compress the visual tokens of every prefill from now on, until the handle is removed.

    The model itself is not changed: nothing is copied, no attention kernel is replaced, and text-only calls run as ever.
    Each prefill makes its own choice; what it removed is remembered by that generation's cache alone.

    Args:
        model: a loaded transformers model of a known family (see `foveate.families`), with or without a PEFT wrapper.
        method: a method, or several as a schedule; each acts before its own `layer` on what the ones before it left.
        trim_early_layers: also take the tokens out of the key/value caches of the layers before the cut, so that all
            layers have one length. Without it those layers go on seeing every visual token while decoding.
        clamp: let an int `keep` above the number of tokens mean all of them, for every method.

    Returns:
        a handle with `report` and `remove()`; also a context manager.

    Raises:
        UnsupportedModelError: no family covers this model, or its decoder has layers that do not see everything.
        HandleError: the model already has a handle.
        LayerError: the model has no such layer, or the layers of a schedule do not increase.
        SignalError: the model cannot give a signal that a method needs at its layer.
        CompressorError: a method's compressor is missing, damaged, or made for another model.
        UnsupportedError: the model's generation settings ask for chunked prefill or assisted decoding, or it is compiled.
    """
    schedule = [method] if isinstance(method, Method) else list(method)
    model = unwrapped(model)
    family = family_of(model)
    check_not_compiled(model, family)
    _check_decoder(family.decoder(model).config)
    _check_schedule(schedule, family, model)
    check_generation(model, {})
    switch = _SWITCHES.setdefault(family.decoder(model), Switch())
    if is_compressed(model, family):
        raise HandleError(f"this {type(model).__name__} already has a foveate handle; call its remove() first, or pass a list of methods")
    identify = functools.cache(functools.partial(identity, model))
    for each in schedule:
        each.check(identify)
    cuts = {m.layer: replace(m, clamp=True) if clamp else m for m in schedule}
    return Handle(model, family, cuts, trim_early_layers, switch)


def is_compressed(model: nn.Module, family: Family) -> bool:
    """Whether the model has a handle that is in place."""
    switch = _SWITCHES.get(family.decoder(model))
    return switch is not None and switch.on


class Handle:
    """Compression that is in place on one model. Made by `compress`."""

    def __init__(self, model: nn.Module, family: Family, cuts: dict[int, Method], trim: bool, switch: Switch) -> None:
        self._model, self._family, self._cuts, self._trim, self._switch = model, family, cuts, trim, switch
        self._report = Report()
        self._needs = frozenset[str]().union(*(method.needs for method in cuts.values()))
        self._pending: tuple[Tensor, Mapping[str, Any] | None] | None = None
        self._prefill: Prefill | None = None
        self._masks: dict[int, Any] = {}
        self._hooks = self._attach()
        self._encoders = Encoders(model, family, self._needs & TOWER_SIGNALS)
        self._stand_ins = StandIns(model)
        self._guard_generation()
        switch.on = True

    @property
    def report(self) -> Report:
        """What the last prefill did; empty before the first one and after a prefill of text alone."""
        return self._report

    @property
    def active(self) -> bool:
        """Whether the handle is still in place."""
        return bool(self._hooks)

    def remove(self) -> None:
        """Leave the model as it was; safe to call twice. Caches compressed so far need a new handle to be decoded on."""
        if not self._hooks:
            return
        self._forget()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._encoders.remove()
        self._switch.on = False
        self._stand_ins.remove()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def __repr__(self) -> str:
        methods = ", ".join(str(method) for method in self._cuts.values())
        return f"<foveate handle on {type(self._model).__name__}: {methods}{'' if self.active else ' (removed)'}>"

    def _attach(self) -> list[Any]:
        model, family = self._model, self._family
        backbone, decoder, layers = family.backbone(model), family.decoder(model), family.layers(model)
        hooks = [
            model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            backbone.register_forward_pre_hook(self._before_backbone, with_kwargs=True),
            backbone.register_forward_hook(self._after_backbone, always_call=True),
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            decoder.register_forward_hook(self._after_decoder, with_kwargs=True),
        ]
        for index, layer in enumerate(layers):
            hooks.append(layer.register_forward_pre_hook(functools.partial(self._before_layer, index), with_kwargs=True))
            if type(family).injected is not Family.injected:
                hooks.append(layer.register_forward_hook(functools.partial(self._after_layer, index)))
            following = self._cuts.get(index + 1)
            if following is not None and "attention_output" in following.needs:
                hooks.append(family.attention(layer).register_forward_hook(functools.partial(self._after_attention, index)))
        return hooks

    def _guard_generation(self) -> None:
        model: Any = self._model
        generate = getattr(model, "generate", None)
        if generate is not None:

            @functools.wraps(generate)
            def guarded(*args: Any, **kwargs: Any) -> Any:
                check_generation(model, generation_options(generate, args, kwargs))
                return generate(*args, **kwargs)

            self._stand_ins.put("generate", guarded)
        if hasattr(model, "init_continuous_batching"):
            self._stand_ins.put("init_continuous_batching", refuse_continuous_batching)

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if kwargs.get("labels") is None:
            return
        input_ids = _input_ids(args, kwargs)
        visual = torch.tensor(list(self._family.placeholders(self._model).values()), device=input_ids.device)
        if bool(torch.isin(input_ids, visual).any()):
            raise UnsupportedError(
                "labels cannot be used while visual tokens are compressed, because the logits are fewer than the labels; "
                "call the model without labels and compute the loss from the logits, whose input columns are handle.report.columns"
            )

    def _before_backbone(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forget()
        self._encoders.enter()
        input_ids = _input_ids(args, kwargs)
        if input_ids.shape[1] > 1:
            check_not_compiled(self._model, self._family)
        # At a decoding step looking at the token would stall an accelerator for nothing.
        self._pending = (input_ids, kwargs.get("mm_encoder_outputs")) if input_ids.shape[1] > 1 else None

    def _after_backbone(self, module: nn.Module, args: Any, output: Any) -> None:
        self._forget()

    def _forget(self) -> None:
        if self._prefill is not None:
            self._prefill.close()
        self._encoders.leave()
        self._pending, self._prefill, self._masks = None, None, {}

    def _find_images(self, embeddings: Tensor) -> dict[str, Any] | None:
        """What a `Prefill` must know of the images of this forward pass; `None` where there are none."""
        if self._pending is None:
            return None
        (input_ids, features), self._pending = self._pending, None
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
                own = [{"projected_states": embeddings[row, image.columns.to(embeddings.device)]} for image in tokens]
                fixed[row] = [{**known, **new} for known, new in zip(fixed[row], own, strict=True)]
        return {"images": images, "fixed": fixed, "input_ids": input_ids, "spent": sum(encoding.seconds for encoding in seen)}

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._prefill is not None:  # of a call that was interrupted: no hook behind a forward runs then
            self._prefill.close()
            self._prefill, self._masks = None, {}
        embeddings, cache, mask = kwargs.get("inputs_embeds"), kwargs.get("past_key_values"), kwargs.get("attention_mask")
        if embeddings is None:
            return None
        found = self._find_images(embeddings)
        if found:
            check_cache(cache)
        resumed = base_state(cache) is not None
        if (found or resumed) and mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise UnsupportedError("a ready-made 4-D attention mask cannot be compressed; pass the 2-D attention_mask of the processor")
        if not found and not resumed:
            if embeddings.shape[1] > 1:
                self._report = Report()
            return None
        kwargs = dict(kwargs)
        given = kwargs.get("position_ids")
        if resumed:
            kwargs |= self._resume(module, cache, embeddings, mask, given)
            if found and _has_axes(given):
                kwargs["position_ids"] = given  # a new image's own axes, which only the model can know
        if found:
            injected = self._family.injected(kwargs)
            self._prefill = Prefill(
                self._model,
                self._family,
                self._cuts,
                **found,
                embeddings=embeddings,
                mask=mask,
                position_ids=kwargs.get("position_ids"),
                cache=cache,
                injection=Injection(*injected) if injected else None,
                trim=self._trim,
                switch=self._switch,
            )
        return args, kwargs

    def _resume(self, decoder: nn.Module, cache: Any, embeddings: Tensor, mask: Tensor | None, given: Tensor | None) -> dict[str, Any]:
        """Masks and positions for new tokens after a cut prefill, at any number of turns."""
        last, first = base_state(cache), layer_state(cache, 0)
        assert last is not None
        (batch, queries), device = embeddings.shape[:2], embeddings.device
        past = cache.get_seq_length()
        since = new_columns(mask, last.logical, past + queries, batch, device)
        order = (since.long().cumsum(1)[:, -queries:] - 1).clamp(min=0)
        new = since[:, -queries:]
        changed: dict[str, Any] = {"position_ids": _like(last.next_position.to(device)[..., None] + order, given)}
        if first is not None:
            gone = torch.zeros(batch, first.removed, dtype=torch.bool, device=device)
            changed["attention_mask"] = torch.cat([gone, past_columns(first, mask, past, batch, device), new], dim=1)
        masks: dict[int, Any] = {}
        for index in range(len(cache.layers)):
            state = layer_state(cache, index)
            if state is None or (first is not None and state.segment == first.segment):
                continue
            if state.segment not in masks:
                columns = torch.cat([past_columns(state, mask, past, batch, device), new], dim=1)
                masks[state.segment] = causal_mask(decoder.config, embeddings, columns, columns.shape[1] - queries)
            self._masks[index] = masks[state.segment]
        return changed

    def _before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._prefill is None and not self._masks:
            return None
        if index in self._masks:
            kwargs["attention_mask"] = self._masks[index]
        if self._prefill is not None:
            args = (self._prefill.enter(index, args[0], args[1:], kwargs), *args[1:])
        return args, kwargs

    def _after_attention(self, index: int, module: nn.Module, args: Any, output: Any) -> None:
        if self._prefill is not None:
            self._prefill.readings.observe(index, output[0])

    def _after_layer(self, index: int, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output if self._prefill is None else self._prefill.leave(index, output)

    def _after_decoder(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if self._prefill is not None:
            self._report = self._prefill.finish(getattr(output, "past_key_values", None))
        self._masks = {}


def _input_ids(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    input_ids = args[0] if args else kwargs.get("input_ids")
    if input_ids is None:
        raise UnsupportedError(
            "inputs_embeds do not tell which tokens are visual; pass input_ids and no inputs_embeds (generate drops the ids where it has "
            "both), or remove the handle"
        )
    return input_ids


def _has_axes(positions: Tensor | None) -> bool:
    """Whether positions (kinds, b, q) differ between the rotary axes, as an image's do."""
    return positions is not None and positions.ndim == 3 and bool((positions[-1] != positions[-2]).any())


def _like(positions: Tensor, given: Tensor | None) -> Tensor:
    """Positions (..., b, q) with as many kinds as the decoder was given this time; text comes before the rotary axes."""
    if given is None:
        return positions
    if positions.ndim == 2:
        return positions.expand(*given.shape[:-2], -1, -1)
    return positions[-len(given) :] if given.ndim == 3 else positions[0]


def _check_decoder(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kinds or window is not None:
        what = f"layers of type {', '.join(sorted(kinds))}" if kinds else f"sliding_window={window}"
        raise UnsupportedModelError(f"the decoder ({config.model_type}) has {what}; only full attention in every layer is supported so far")


def _check_schedule(schedule: Sequence[Any], family: Family, model: nn.Module) -> None:
    if not schedule or not all(isinstance(method, Method) for method in schedule):
        raise TypeError(f"compress() takes a Method or a non-empty list of them, such as TokenCarve(keep=128); got {schedule!r}")
    layers = len(family.layers(model))
    for earlier, later in itertools.pairwise(schedule):
        if later.layer <= earlier.layer:
            raise LayerError(f"the layers of a schedule must increase; {later} follows {earlier}")
    for method in schedule:
        if method.layer >= layers:
            raise LayerError(f"layer={method.layer} of {method}: this model has decoder layers 0..{layers - 1}")
        needs = ", ".join(sorted(method.needs))
        given = family.gives(model)
        if method.needs - given:
            raise SignalError(f"{method} needs {needs}; family {family.name!r} gives only {', '.join(sorted(given))} for this model")
        if method.layer == 0 and "attention_output" in method.needs:
            raise SignalError(
                f"{method} needs attention_output of the layer before its own, and layer=0 has none before it; use layer >= 1"
            )
