"""Foveate inside vLLM: a fraction of the visual tokens, chosen before the prefill, in models that vLLM serves.

vLLM calls `register` in each of its processes, through the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

from foveate.plugins.vllm.architectures import ARCHITECTURES, PREFIX

__all__ = ["register"]


def register() -> None:
    """Tell vLLM of the architectures that foveate serves; their modules are imported when a model is loaded."""
    from vllm import ModelRegistry

    known = ModelRegistry.get_supported_archs()
    for stock, place in ARCHITECTURES.items():
        if PREFIX + stock not in known:
            ModelRegistry.register_model(PREFIX + stock, place)
