"""The part that all served model classes share: `ServedModel`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from vllm.model_executor.models.utils import WeightsMapper

from foveate.plugins.vllm.architecture import Architecture
from foveate.plugins.vllm.selection import Selector

__all__ = ["UNWRAPPED_TOWER", "ServedModel"]

UNWRAPPED_TOWER = WeightsMapper(
    orig_to_new_regex={
        re.compile(r"^(?:model\.)?vision_tower\.(?=embeddings|encoder|pre_layrnorm|post_layernorm)"): "vision_tower.vision_model."
    }
)
"""Names of vision towers that transformers saves (in 5.19 and later) without the wrapper `vision_model`, which vLLM has."""


class ServedModel:
    """Goes before one of vLLM's model classes in the bases of a class, and lets it return fewer rows for each image.

    Attributes:
        architecture: what is known of the model.
        foveate: decides; it has the last plans and the features of recent images.
    """

    architecture: Architecture

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.foveate = Selector(self, self.architecture, vllm_config)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """See vLLM; a compressor of another model is refused here, before the server answers anything."""
        loaded: set[str] = super().load_weights(weights)  # type: ignore[misc]
        self.foveate.prepare()
        return loaded

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        """The rows of each image that enter the language model."""
        return self.foveate.embed(super().embed_multimodal, kwargs)  # type: ignore[misc]
