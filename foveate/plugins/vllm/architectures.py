"""The architectures that the plugin serves. Imports nothing of vLLM, because exporting a checkpoint needs these names too."""

from __future__ import annotations

__all__ = ["ARCHITECTURES", "PREFIX", "SUPPORTED", "served"]

PREFIX = "Foveate"
"""What a served architecture has before the name of the stock one."""

ARCHITECTURES: dict[str, str] = {
    "LlavaForConditionalGeneration": "foveate.plugins.vllm.llava:FoveateLlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration": "foveate.plugins.vllm.llava_next:FoveateLlavaNextForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration": "foveate.plugins.vllm.llava_onevision:FoveateLlavaOnevisionForConditionalGeneration",
    "Qwen2VLForConditionalGeneration": "foveate.plugins.vllm.qwen_vl:FoveateQwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration": "foveate.plugins.vllm.qwen_vl:FoveateQwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration": "foveate.plugins.vllm.qwen_vl:FoveateQwen3VLForConditionalGeneration",
}
"""Stock architectures, and where the class lives that serves each; vLLM imports it when a model of it is loaded."""

SUPPORTED = ">=0.32,<0.34"
"""Versions of vLLM that the plugin is for. The tests run on 0.32.0; in 0.33.0 the code that it relies on is the same."""


def served(architecture: str) -> str:
    """The name under which a stock architecture is served with compression.

    Args:
        architecture: as it stands in a checkpoint's config.json, or already the served name.

    Raises:
        KeyError: the plugin does not serve it.
    """
    stock = architecture.removeprefix(PREFIX)
    if stock not in ARCHITECTURES:
        raise KeyError(architecture)
    return PREFIX + stock
