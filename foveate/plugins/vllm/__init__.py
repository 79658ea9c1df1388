"""Foveate inside vLLM: a fraction of the visual tokens, chosen before the prefill, in models that vLLM serves.

vLLM calls `register` in each of its processes, through the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

from packaging.specifiers import SpecifierSet

from foveate.plugins.vllm.architectures import ARCHITECTURES, PREFIX, SUPPORTED

__all__ = ["register"]


def register() -> None:
    """Tell vLLM of the architectures that foveate serves; their modules are imported when a model is loaded."""
    import vllm
    from vllm import ModelRegistry
    from vllm.logger import init_logger

    logger = init_logger(__name__)
    installed = vllm.__version__
    if not SpecifierSet(SUPPORTED).contains(installed, prereleases=True):
        logger.warning(
            "foveate supports vLLM %s, and %s is installed: served answers may be wrong, and `foveate export vllm` folders may not load; "
            "install a supported version",
            SUPPORTED,
            installed,
        )
    known = ModelRegistry.get_supported_archs()
    for stock, place in ARCHITECTURES.items():
        if PREFIX + stock not in known:
            ModelRegistry.register_model(PREFIX + stock, place)
