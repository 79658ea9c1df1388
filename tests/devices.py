"""Several devices on a machine that has one: tensors carry labels, and operations on tensors of different labels fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakIdKeyDictionary

from foveate import Method, View
from foveate.view import NOT_AT_THE_INPUT, SIGNALS

CPU = torch.device("cpu")
FIRST, SECOND = torch.device("maia:0"), torch.device("maia:1")
"""Names that no machine here has, so that nothing can end up there by itself."""

_LABELS: Any = WeakIdKeyDictionary()
_INDEXING = ("__getitem__", "__setitem__")
_COMPARING = ("_has_compatible_shallow_copy_type",)
"""Asks about kinds of tensors, not their values."""


def where(tensor: Tensor) -> torch.device:
    return _LABELS.get(tensor, CPU)


def put(tensors: Any, device: torch.device) -> Any:
    """Label tensors, however nested, as being on a device."""

    def label(value: Any) -> Any:
        if isinstance(value, Tensor):
            _LABELS[value] = device
        return value

    return tree_map(label, tensors)


def moved(values: Any, device: torch.device) -> Any:
    """As accelerate sends arguments to where a module computes."""
    if isinstance(values, tuple):
        return tuple(moved(value, device) for value in values)
    return values.to(device) if isinstance(values, Tensor) else values


class Devices(TorchFunctionMode):
    """While it is on, tensors are where their labels say, as far as `device`, `to`, factories and operations go."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return where(args[0])
        if func == Tensor.data.__set__:  # how a module moves its parameters
            func(*args)
            return put(args[0], where(args[1]))
        name = getattr(func, "__name__", "")
        if name in ("cpu", "to"):
            return _to(func, args, {"device": CPU} if name == "cpu" else kwargs, name)
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        # A number may be anywhere, and an index on the CPU, as on a real accelerator.
        real = {where(value) for value in given if value.ndim} - ({CPU} if name in _INDEXING else set())
        if len(real) > 1 and name not in _COMPARING:
            raise RuntimeError(f"{name}: tensors on {', '.join(sorted(map(str, real)))}")
        numbers = {where(value) for value in given} - {CPU}
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"] = CPU
        device = torch.device(asked) if asked is not None else where(args[0]) if name in _INDEXING else next(iter(real or numbers), CPU)
        output = func(*args, **kwargs)
        fresh = [value for value in tree_flatten(output)[0] if isinstance(value, Tensor) and not any(value is other for other in given)]
        put(fresh, device)
        return output


def _to(func: Any, args: Any, kwargs: Any, name: str) -> Tensor:
    tensor, target, rest = args[0], kwargs.pop("device", None), []
    for value in args[1:]:
        if isinstance(value, (torch.device, str)):
            target = value
        elif isinstance(value, Tensor):
            target = where(value)
            rest.append(value.dtype)
        elif isinstance(value, torch.dtype):
            rest.append(value)
    device = where(tensor) if target is None else torch.device(target)
    output = func(tensor, *rest, **kwargs) if name == "to" and (rest or kwargs) else tensor
    return put(output.clone() if device != where(tensor) else output, device)


def spread(model: Any, layers: range) -> Any:
    """A model whose decoder layers of the given numbers are on the second device, and all else on the first."""
    put([*model.parameters(), *model.buffers()], FIRST)
    decoder = model.model.language_model
    for module, device in [*((decoder.layers[index], SECOND) for index in layers), (decoder.norm, FIRST)]:
        put([*module.parameters(), *module.buffers()], device)
        module.forward = _sending(module.forward, device)
    return model


def _sending(forward: Any, device: torch.device) -> Any:
    return lambda *args, **kwargs: forward(*moved(args, device), **{name: moved(value, device) for name, value in kwargs.items()})


@dataclass(frozen=True)
class Everything(Method):
    """Ranks by every signal that the model gives at this layer."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(SIGNALS) - (NOT_AT_THE_INPUT if self.layer == 0 else frozenset())

    def score(self, view: View) -> Tensor:
        score = view.states.square().mean(1)
        for name in sorted(self.needs):
            value = view.signal(name)
            assert value.device == view.states.device, f"{name} is on {value.device}, the states on {view.states.device}"
            if not name.startswith("question_"):
                value = value.mean(0) if name in ("text_attention", "head_attention") else value.flatten(1) if value.ndim > 1 else value
                score = score + (value if value.ndim == 1 else value.square().mean(1))
        return score
