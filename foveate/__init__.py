"""Foveate keeps the visual tokens that matter in a multimodal language model."""

from importlib import import_module
from typing import Any

from foveate.moved import accept_old_paths

_FACE = {
    "foveate.budget": ["tokens_after"],
    "foveate.compression": ["Handle", "compress", "handle_of"],
    "foveate.explain.compressor.compressor": ["ConvCompressor"],
    "foveate.explain.relevance.relevance": ["relevance"],
    "foveate.explain.relevance.result": ["Relevance"],
    "foveate.method": ["Method"],
    "foveate.methods": [
        *("DivPrune", "Explainer", "FastV", "FirstLayerAttention", "Oracle", "Pool", "Random", "Scope", "TokenCarve", "TowerAttention"),
        *("DART", "EntropyPrune", "PyramidDrop", "SparseVLM", "V2Drop"),
        *("load_method", "parse_method", "register", "save_method"),
    ],
    "foveate.plan": ["Plan"],
    "foveate.report": ["Report"],
    "foveate.version": ["__version__"],
    "foveate.view": ["View"],
}
"""The public names by the module that defines them. Type checkers read `__init__.pyi`, which `tests/test_public_face.py` writes from it."""

_HOMES = {name: module for module, names in _FACE.items() for name in names}

__all__ = sorted(_HOMES)

accept_old_paths()


def __getattr__(name: str) -> Any:
    # On first use, because torch and transformers take seconds to import and `foveate --help` needs neither.
    if name not in _HOMES:
        raise AttributeError(f"module 'foveate' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
