"""Foveate inside vLLM: a fraction of the visual tokens, chosen before the prefill, in models that vLLM serves.

vLLM calls `register` in each of its processes, through the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

from typing import Any

from packaging.specifiers import SpecifierSet

from foveate.plugins.vllm.architectures import ARCHITECTURES, PREFIX, SUPPORTED

__all__ = ["register"]


def register() -> None:
    """Tell vLLM of the architectures that foveate serves; their modules are imported when a model is loaded."""
    import vllm
    from vllm import ModelRegistry
    from vllm.logger import init_logger
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

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
            MODELS_CONFIG_MAP.setdefault(PREFIX + stock, _positions_of_our_own())


def _positions_of_our_own() -> type[Any]:
    """What vLLM does to the configuration of a served model, before it makes anything of it."""
    from vllm.model_executor.models.config import VerifyAndUpdateConfig

    class PositionsFromTheModel(VerifyAndUpdateConfig):
        """Makes the runner ask the model for the positions of a prompt, which it does for models with several kinds of position alone."""

        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            if not model_config.uses_mrope:
                model_config.hf_config.mrope_section = [1, 0, 0]

    return PositionsFromTheModel
