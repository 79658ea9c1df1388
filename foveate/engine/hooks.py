"""Hooks that are the same objects under the same numbers for every handle that stands on a model.

Compiled code is guarded by the hooks that were there when it was compiled. If each handle brought hooks of its own, the decoding step
would be compiled anew after each `compress`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal

from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["AttachedHook", "Hook"]


class Hook:
    """One hook at one place of one module; it does what the handle that has it says, and nothing while none has it."""

    def __init__(self) -> None:
        self.act: Callable[..., Any] | None = None

    @property
    def __self__(self) -> Any:
        """The handle, as of a bound method."""
        act = getattr(self.act, "func", self.act)
        return getattr(act, "__self__", None)

    def __call__(self, *given: Any) -> Any:
        return None if self.act is None else self.act(*given)


_RESTING: weakref.WeakKeyDictionary[nn.Module, dict[str, tuple[int, Hook]]] = weakref.WeakKeyDictionary()
"""Hooks that no handle has, by module and place, and the number under which each was registered first."""


class AttachedHook:
    """A hook that is in place until it is removed.

    Args:
        module: where it is.
        place: "forward" or "forward_pre".
        act: what the hook does, with the arguments that the module gives it.
        options: of `register_forward_hook` or `register_forward_pre_hook`.
    """

    def __init__(self, module: nn.Module, place: Literal["forward", "forward_pre"], act: Callable[..., Any], **options: Any) -> None:
        self._module, self._place = module, place
        register = module.register_forward_hook if place == "forward" else module.register_forward_pre_hook
        number, self._hook = _RESTING.get(self._module, {}).pop(self._place, (None, Hook()))
        self._hook.act = act
        self._removable: RemovableHandle = register(self._hook, **options)
        if number is not None:
            _renumber(self._removable, number)

    def remove(self) -> None:
        """Take the hook out; the next one at its place will be the same."""
        self._removable.remove()
        self._hook.act = None
        _RESTING.setdefault(self._module, {})[self._place] = self._removable.id, self._hook


def _renumber(removable: RemovableHandle, number: int) -> None:
    """Give a hook that has just been registered the number of one that has left."""
    for reference in (removable.hooks_dict_ref, *removable.extra_dict_ref):
        hooks = reference()
        if hooks is not None and removable.id in hooks:
            hooks[number] = hooks.pop(removable.id)
    removable.id = number
