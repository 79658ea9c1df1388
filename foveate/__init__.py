"""Foveate keeps the visual tokens that matter in a multimodal language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foveate.version import __version__

if TYPE_CHECKING:
    from foveate.budget import tokens_after
    from foveate.compression import compress
    from foveate.method import Method
    from foveate.methods import FastV, Pool, Random, TokenCarve
    from foveate.plan import Plan
    from foveate.report import Report
    from foveate.view import View

__all__ = ["FastV", "Method", "Plan", "Pool", "Random", "Report", "TokenCarve", "View", "__version__", "compress", "tokens_after"]

# Looked up on first use, because torch and transformers take seconds to import and `foveate --help` needs neither.
_HOMES = {
    "compress": "foveate.compression",
    "tokens_after": "foveate.budget",
    "Method": "foveate.method",
    "FastV": "foveate.methods",
    "Pool": "foveate.methods",
    "Random": "foveate.methods",
    "TokenCarve": "foveate.methods",
    "Plan": "foveate.plan",
    "Report": "foveate.report",
    "View": "foveate.view",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
