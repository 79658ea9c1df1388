"""LLaVA-1.5 under vLLM."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from vllm.model_executor.models import llava
from vllm.multimodal import MULTIMODAL_REGISTRY

from foveate.errors import UnsupportedModelError
from foveate.families.kit.layout import Layout, MediaKind
from foveate.families.kit.towers import CLASS_TOKENS, feature_block, single_layer
from foveate.families.llava import image_grid
from foveate.plugins.vllm.model import UNWRAPPED_TOWER
from foveate.plugins.vllm.positions import InOrder, PositionedModel
from foveate.plugins.vllm.processing import FrontProcessor

__all__ = ["FoveateLlavaForConditionalGeneration", "ServedLlava"]


class ServedLlava(InOrder):
    """`LlavaForConditionalGeneration` with a CLIP or SigLIP tower. Kept tokens stay at their positions."""

    signals = frozenset({"tower_attention", "tower_states"})

    def check(self, config: Any) -> None:
        """Refuse towers with rows of patches, and features that are no grid of patches."""
        tower = config.vision_config.model_type
        if tower not in CLASS_TOKENS:
            raise UnsupportedModelError(f"a LLaVA with vision tower {tower!r} is not served; towers that are: {', '.join(CLASS_TOKENS)}")
        if not single_layer(config) or image_grid(config)[1] == 1:
            raise UnsupportedModelError("a LLaVA with features of several tower layers, or with class tokens among them, is not served")

    def front_layout(self, config: Any, kind: MediaKind, item: Any, kwargs: Mapping[str, Any]) -> Layout:
        """Every image has the same grid."""
        return Layout((image_grid(config),))

    def layouts(self, config: Any, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Layout]:
        """Every image has the same grid."""
        return [Layout((image_grid(config),))] * len(kwargs["pixel_values"])

    def length(self, config: Any, kind: MediaKind, item: Mapping[str, Any]) -> int:
        """Every image has the same grid."""
        return math.prod(image_grid(config))

    def subset(self, kind: MediaKind, kwargs: Mapping[str, Any], chosen: Sequence[int]) -> dict[str, Any]:
        """Pixels of some images."""
        return {"pixel_values": kwargs["pixel_values"][list(chosen)]}

    def tower_attention(self, model: Any) -> nn.Module:
        """That of the layer whose output is projected."""
        config = model.config
        block, built = feature_block(config), len(model.vision_tower.vision_model.encoder.layers)
        layer = block if block >= 0 else config.vision_config.num_hidden_layers + block
        return model.vision_tower.vision_model.encoder.layers[min(layer, built - 1)].self_attn.attn  # type: ignore[no-any-return]

    def class_token(self, config: Any) -> bool:
        """CLIP has one."""
        return bool(CLASS_TOKENS[config.vision_config.model_type])

    def fold(self, config: Any, signal: str, values: Tensor, kind: MediaKind, kwargs: Mapping[str, Any]) -> list[Tensor]:
        """Patches are tokens, in the same order."""
        _, rows, columns = image_grid(config)
        return list(values.split(rows * columns))


class _Processor(FrontProcessor, llava.LlavaMultiModalProcessor):
    architecture = ServedLlava()


def _processor(info: Any, dummy_inputs: Any) -> Any:
    if not isinstance(info, llava.LlavaProcessingInfo):
        ServedLlava().check(info.get_hf_config())
    return _Processor(info, dummy_inputs)


@MULTIMODAL_REGISTRY.register_processor(_processor, info=llava._build_llava_or_pixtral_hf_info, dummy_inputs=llava.LlavaDummyInputsBuilder)
class FoveateLlavaForConditionalGeneration(PositionedModel, llava.LlavaForConditionalGeneration):
    """vLLM's LLaVA-1.5 with a fraction of the visual tokens."""

    architecture = ServedLlava()
    # transformers saves (in 5.19 and later) the tower without the wrapper `vision_model`.
    hf_to_vllm_mapper = llava.LlavaForConditionalGeneration.hf_to_vllm_mapper | UNWRAPPED_TOWER
