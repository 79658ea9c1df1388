"""Foveate keeps the visual tokens that matter in a multimodal language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from foveate.moved import accept_old_paths
from foveate.version import __version__

if TYPE_CHECKING:
    from foveate.budget import tokens_after
    from foveate.compression import Handle, compress, handle_of
    from foveate.explain.compressor.compressor import ConvCompressor
    from foveate.explain.relevance.relevance import relevance
    from foveate.explain.relevance.result import Relevance
    from foveate.method import Method
    from foveate.methods import Explainer, FastV, FirstLayerAttention, Oracle, Pool, Random, TokenCarve
    from foveate.plan import Plan
    from foveate.report import Report
    from foveate.view import View

__all__ = [
    "ConvCompressor", "Explainer", "FastV", "FirstLayerAttention", "Handle", "Method", "Oracle", "Plan", "Pool", "Random", "Relevance",
    "Report", "TokenCarve", "View", "__version__", "compress", "handle_of", "relevance", "tokens_after",
]  # fmt: skip

accept_old_paths()

# Looked up on first use, because torch and transformers take seconds to import and `foveate --help` needs neither.
_HOMES = {
    "compress": "foveate.compression",
    "handle_of": "foveate.compression",
    "Handle": "foveate.compression",
    "relevance": "foveate.explain.relevance.relevance",
    "Relevance": "foveate.explain.relevance.result",
    "tokens_after": "foveate.budget",
    "Method": "foveate.method",
    "ConvCompressor": "foveate.explain.compressor.compressor",
    "Explainer": "foveate.methods",
    "FastV": "foveate.methods",
    "FirstLayerAttention": "foveate.methods",
    "Oracle": "foveate.methods",
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
