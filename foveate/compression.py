"""The one verb: `compress(model, method)` puts a method into a running, unmodified model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from foveate.engine.handle import Handle, handle_on
from foveate.engine.identity import identity
from foveate.engine.schedule import Schedule
from foveate.engine.surroundings import check_generation, check_hooks_run, unwrapped
from foveate.engine.versions import warn_if_untested
from foveate.errors import HandleError, LayerError, SignalError, UnsupportedModelError, UsageError
from foveate.families import Family, family_of
from foveate.method import Method, schedule_of
from foveate.printable import described
from foveate.view import NOT_AT_THE_INPUT

__all__ = ["Handle", "compress", "handle_of", "is_compressed"]


def compress(
    model: nn.Module, method: Method | Sequence[Method], *, trim_early_layers: bool = True, clamp: bool = False, compiled: bool = False
) -> Handle:
    """Compress the visual tokens of every prefill from now on, until the handle is removed.

    The model itself is not changed: nothing is copied, no attention kernel is replaced, and text-only calls run as before.
    Each prefill makes its own choice; only that generation's cache remembers what was removed.

    Args:
        model: a loaded transformers model of a known family (see `foveate.families`), with or without a PEFT wrapper.
        method: a method, or several as a schedule; each acts before its own `layer` on what the ones before it left.
        trim_early_layers: also take the tokens out of the key/value caches of the layers before the cut, so that all
            layers have one length. Without it those layers see every visual token while decoding.
        clamp: let an int `keep` above the number of tokens mean all of them, for every method.
        compiled: run the prefill's layers after the last cut as code from torch.compile, which spares the host their launches. The
            first prompt of each length, rounded up, takes the time to compile them. Where they cannot be compiled, they run as ever,
            and `handle.compiled.reason` says why.

    Returns:
        a handle with `report` and `remove()`; also a context manager.

    Raises:
        UsageError: the model is no loaded transformers model, or the method is none.
        UnsupportedModelError: no family covers this model, or its decoder has layers that do not see everything.
        HandleError: the model already has a handle.
        LayerError: the model has no such layer, or the layers of a schedule do not increase.
        SignalError: the model cannot give a signal that a method needs at its layer.
        CompressorError: a method's compressor is missing, damaged, or made for another model.
        UnsupportedError: the model's generation settings ask for chunked prefill or assisted decoding, or its call is compiled.
    """
    _check_model(model)
    schedule = schedule_of(method, "compress()")
    warn_if_untested()
    model = unwrapped(model)
    family = family_of(model)
    check_hooks_run(model, family)
    _check_decoder(family.decoder(model).config)
    schedule = [replace(each, clamp=True) if clamp else each for each in schedule]
    stages = [stage for each in schedule for stage in each.stages(len(family.layers(model)))]
    _check_schedule(stages, family, model)
    check_generation(model, {})
    if is_compressed(model, family):
        raise HandleError(
            f"this {type(model).__name__} already has a foveate handle; call its remove() first (foveate.handle_of(model) finds it), or "
            "pass a list of methods"
        )
    identify = functools.cache(functools.partial(identity, model))
    for each in schedule:
        each.check(identify)
    return Handle(Schedule(model, family, {stage.layer: stage for stage in stages}, trim_early_layers, compiled))


def handle_of(model: nn.Module) -> Handle | None:
    """The handle that is in place on a model, or `None`: for one that was lost, and for copies of a compressed model.

    Args:
        model: as given to `compress`, or a copy of it.

    Raises:
        UsageError: it is no loaded transformers model.
        UnsupportedModelError: no family covers it.
    """
    _check_model(model)
    model = unwrapped(model)
    return handle_on(model, family_of(model))


def is_compressed(model: nn.Module, family: Family) -> bool:
    """Whether the model has a handle that is in place."""
    return handle_on(model, family) is not None


def _check_model(model: Any) -> None:
    if isinstance(model, nn.Module):
        return
    inner = getattr(model, "model", None)
    if isinstance(model, str):
        hint = f"a name; load it first, for example AutoModelForImageTextToText.from_pretrained({model!r})"
    elif isinstance(model, Method):
        hint = "a method; the model comes first: compress(model, method)"
    elif isinstance(inner, nn.Module):
        hint = f"not the model itself; pass its .model ({type(inner).__name__})"
    elif isinstance(model, type):
        hint = "a class; pass a loaded model, such as the one that its from_pretrained(...) returns"
    else:
        hint = "not a loaded transformers model"
    raise UsageError(f"the model given to foveate is {hint}; got {described(model)}")


def _check_decoder(config: Any) -> None:
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kinds or window is not None:
        what = f"layers of type {', '.join(sorted(kinds))}" if kinds else f"sliding_window={window}"
        raise UnsupportedModelError(f"the decoder ({config.model_type}) has {what}; only full attention in every layer is supported so far")


def _check_schedule(schedule: Sequence[Method], family: Family, model: nn.Module) -> None:
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
        missing = sorted(method.needs & NOT_AT_THE_INPUT)
        if method.layer == 0 and missing:
            raise SignalError(f"{method} needs {missing[0]} of the layer before its own, and layer=0 has none before it; use layer >= 1")
