"""Whether decoder layers can run compiled as they are now, and whether they are still the modules that were compiled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every_module
from transformers.utils import output_capturing

from foveate.engine.compiled.bypass import Bypassed

__all__ = ["Watch"]

T = TypeVar("T")
_PLAIN = (nn.Parameter, Tensor)
_IDLE = (output_capturing.__name__,)
"""Where hooks come from that do nothing unless outputs are asked for, which is looked at elsewhere."""
_OWN = (*_IDLE, "foveate.engine.")
"""The same for the layers themselves, whose hooks run whether the layer is bypassed or not."""
_RECORDS = "gradients are recorded; call the model under torch.no_grad() or torch.inference_mode()"


class Watch:
    """Looks at layers before every prefill: thoroughly where something may have changed, else in a fraction of a millisecond.

    Args:
        layers: of a decoder.

    Attributes:
        version: rises whenever there are other modules than before, so that code compiled for those is of no use. Other weights in the same
            modules are inputs of the code.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = layers
        self.version = 0
        self._children: list[dict[str, nn.Module | None]] = []
        self._weights: list[Mapping[str, Tensor | None]] = []
        self._hooks: list[dict[int, Any]] = []
        self._attributes: list[dict[str, Any]] = []
        self._seen: _State | None = None

    @property
    def hooked(self) -> bool:
        """Whether there are hooks inside the layers; they do nothing, or there is an obstacle."""
        return self._seen is not None and bool(self._seen.hooks)

    def obstacle(self, states: Tensor) -> str | None:
        """What in the layers keeps them from running on `states` (b, n, d) as compiled code; `None` if nothing."""
        if any(layer.training for layer in self._layers):
            return "the layers are in training mode; call model.eval()"
        if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
            return "hooks on all modules are registered, and compiled code would run past them"
        recording = torch.is_grad_enabled()
        if recording and states.requires_grad:
            return _RECORDS
        if not recording and self._as_seen(states.device):
            return next(filter(None, (_about_module(layer, _OWN) for layer in self._layers)), None)
        return self._look(states.device, recording)

    def _look(self, device: torch.device, recording: bool) -> str | None:
        inner = [module for layer in self._layers for module in layer.modules() if module is not layer]
        modules = [*self._layers, *inner]
        for module in modules:
            reason = _about_module(module, _OWN if module in self._layers else _IDLE) or _about_weights(module, device, recording)
            if reason:
                return reason
        self._children = [module._modules for module in modules]
        self._weights = [*(module._parameters for module in modules), *(module._buffers for module in modules)]
        self._hooks = [hooks for module in inner for hooks in (module._forward_hooks, module._forward_pre_hooks)]
        self._attributes = [module.__dict__ for module in inner]
        seen = self._state(device)
        if self._seen is None or seen.children != self._seen.children:
            self.version += 1
        self._seen = seen
        return None

    def _state(self, device: torch.device) -> _State:
        weights = [weight for weight in _values(self._weights) if weight is not None]
        devices = {weight.device for weight in weights} | {device}
        return _State(devices, [*_values(self._children)], weights, [*map(id, weights)], [*chain.from_iterable(self._hooks)])

    def _as_seen(self, device: torch.device) -> bool:
        """Whether nothing has changed in the modules inside the layers since the last thorough look."""
        if self._seen is None or any("forward" in attributes for attributes in self._attributes):
            return False
        return self._state(device) == self._seen


@dataclass
class _State:
    """Of what the layers are made. Holds modules and weights, so that no new one takes the identity of an old one."""

    devices: set[torch.device]
    children: list[nn.Module | None]
    weights: list[Tensor] = field(compare=False)
    identities: list[int]
    hooks: list[int]


def _values(parts: Iterable[Mapping[str, T]]) -> Iterable[T]:
    return chain.from_iterable(part.values() for part in parts)


def _about_module(module: nn.Module, harmless: tuple[str, ...]) -> str | None:
    kind = type(module)
    if kind.__module__.startswith("peft."):
        return "adapters are in place, which may be switched or merged at any time; call merge_and_unload() on the PEFT model"
    if not isinstance(module.__dict__.get("forward"), Bypassed | None):
        return f"something stands in for the forward of a {kind.__name__}, as accelerate does to move weights between devices"
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        if hooks and any(not _home(hook).startswith(harmless) for hook in hooks.values()):
            return f"hooks of others are registered on a {kind.__name__}, and compiled code would run past them"
    return None


def _home(hook: Any) -> str:
    """The module that a hook, or the function in a `functools.partial`, comes from."""
    return str(getattr(getattr(hook, "func", hook), "__module__", ""))


def _about_weights(module: nn.Module, device: torch.device, recording: bool) -> str | None:
    for weight in (*module._parameters.values(), *module._buffers.values()):
        if weight is None:
            continue
        if type(weight) not in _PLAIN:
            return f"weights of a {type(module).__name__} are a {type(weight).__name__}, not plain tensors"
        if weight.device != device:
            return f"the layers are not all on one device: {weight.device} and {device}"
        if recording and weight.requires_grad:
            return _RECORDS
    return None
