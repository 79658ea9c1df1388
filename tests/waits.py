"""What makes the host wait for an accelerator, counted on a machine that has none: reads of tensors that are labelled as being on one."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from devices import CPU, Devices, where
from torch import Tensor
from torch.utils._pytree import tree_flatten

import foveate

PACKAGE = str(Path(foveate.__file__).parent)
READS = {
    *("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "__index__", "__contains__", "is_nonzero"),
    *("equal", "allclose", "nonzero", "argwhere", "unique", "unique_consecutive", "_unique2", "masked_select", "bincount"),
    *("repeat_interleave", "linalg_eigh", "linalg_svd", "linalg_cholesky", "multinomial"),
}
"""Functions whose result, or its shape, the host must have. `repeat_interleave` counts with a tensor of repeats alone."""


class Waits(Devices):
    """Counts waits while it is on.

    Attributes:
        found: for each wait what was called, and from where: the innermost place in foveate, or else anywhere.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if waits(getattr(func, "__name__", ""), args, kwargs or {}):
            self.found.append(f"{getattr(func, '__name__', '')} in {_place()}")
        return super().__torch_function__(func, types, args, kwargs)

    @property
    def ours(self) -> list[str]:
        """Those that foveate's own lines cause."""
        return [each for each in self.found if "foveate/" in each]


def waits(name: str, args: Any, kwargs: Any) -> bool:
    """Whether a call of a torch function makes the host wait for an accelerator."""
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    far = [value for value in tensors if where(value) != CPU]
    if name == "cpu":
        return bool(far)
    if name == "to":
        given = [*args[1:], kwargs.get("device"), kwargs.get("other")]
        target = next((torch.device(v) for v in given if isinstance(v, (torch.device, str))), None)
        target = next((where(v) for v in given if isinstance(v, Tensor)), target)
        if target is None or target == where(args[0]):
            return False
        return target == CPU or (where(args[0]) == CPU and not kwargs.get("non_blocking"))
    if name in ("tensor", "as_tensor"):
        return kwargs.get("device") is not None and torch.device(kwargs["device"]) != CPU and not far
    if name == "__getitem__" or name == "__setitem__":
        indices = [value for value in tree_flatten(args[1])[0] if isinstance(value, Tensor)]
        return where(args[0]) != CPU and any(index.dtype in (torch.bool, torch.uint8) or where(index) == CPU for index in indices)
    if name == "repeat_interleave":
        return bool(far) and len(tensors) > 1 and kwargs.get("output_size") is None
    if name == "where":
        return bool(far) and len(args) == 1
    return name in READS and bool(far)


def _place() -> str:
    frame: Any = sys._getframe(2)
    first = None
    while frame is not None:
        file = frame.f_code.co_filename
        if frame.f_code.co_name == "_record":
            break  # the model's own encoder, which foveate only calls
        if file.startswith(PACKAGE):
            return f"foveate{file.removeprefix(PACKAGE)}:{frame.f_lineno} {frame.f_code.co_name}"
        if first is None and "/torch/" not in file and file != __file__:
            first = f"{Path(file).name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return first or "?"


@contextlib.contextmanager
def waits_on_a_gpu() -> Iterator[list[str]]:
    """The same on a GPU, as torch itself tells; the list is full when the context ends."""
    found: list[str] = []
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)]
