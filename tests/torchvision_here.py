"""torchvision where it is installed, also in a build that does not belong to the installed torch."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["TORCHVISION", "make_importable"]

TORCHVISION = find_spec("torchvision") is not None

_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


@cache
def make_importable() -> Any:
    """Import torchvision, and declare the operators that a build for another torch lacks and that processors do not need.

    They are declared only after the import has failed without them: a matching build brings its own, and declaring one twice ends the
    process. What is returned must live as long as the declarations.
    """
    if not TORCHVISION:
        return None
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    from torch.library import Library

    library = Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        library.define(f"{name}{_SIGNATURE}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    import_module("torchvision")
    return library
