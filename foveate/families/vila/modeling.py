"""VILA1.5 as a transformers model: LLaVA's classes with the projector that joins 2 x 2 patches into one token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration
from transformers.models.llava.modeling_llava import LlavaModel

from foveate.families.vila.checkpoint import load
from foveate.families.vila.configuration import PARTS, VilaConfig, is_release

__all__ = ["PatchMerger", "VilaForConditionalGeneration", "VilaModel", "VilaProjector"]


class PatchMerger(nn.Module):
    """Joins each 2 x 2 square of patches; a grid with an odd side is first padded with a row and a column of zeros."""

    def forward(self, patches: Tensor) -> Tensor:
        """Map features (images, side * side, c) in row-major order to (images, tokens, 4 * c).

        Tokens are in column-major order, as in the release. Within a token, the upper two patches come first.
        """
        side = int(patches.shape[1] ** 0.5)
        half = (side + 1) // 2
        square = F.pad(patches.unflatten(1, (side, side)), (0, 0, 0, 2 * half - side, 0, 2 * half - side))
        squares = square.unflatten(1, (half, 2)).unflatten(3, (half, 2))
        return squares.permute(0, 3, 1, 2, 4, 5).flatten(3).flatten(1, 2)


class VilaProjector(nn.Module):
    """The projector of type `mlp_downsample`; its layers are numbered as in the release's files."""

    def __init__(self, config: VilaConfig) -> None:
        super().__init__()
        joined, hidden = 4 * config.vision_config.hidden_size, config.text_config.hidden_size
        self.layers = nn.Sequential(PatchMerger(), nn.LayerNorm(joined), nn.Linear(joined, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    def forward(self, patches: Tensor) -> Tensor:
        """Map features (images, patches, vision width) to visual tokens (images, tokens, text width)."""
        return self.layers(patches)  # type: ignore[no-any-return]


class VilaModel(LlavaModel):
    """`LlavaModel` with VILA1.5's projector."""

    config_class = VilaConfig

    def __init__(self, config: VilaConfig) -> None:
        super().__init__(config)
        self.multi_modal_projector = VilaProjector(config)


class MaskedHead(nn.Linear):
    """The language model's head, which never predicts ids outside the release's vocabulary (the image token).

    Their logits are the lowest finite number, so probabilities are those of the release, and the ids are never generated.
    """

    def __init__(self, config: VilaConfig) -> None:
        super().__init__(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.image_token = config.image_token_id

    def forward(self, states: Tensor) -> Tensor:
        """Map states (..., d) to logits (..., v)."""
        logits = super().forward(states)
        logits[..., self.image_token] = torch.finfo(logits.dtype).min
        return logits


class VilaForConditionalGeneration(LlavaForConditionalGeneration):
    """VILA1.5 with its language-model head; `from_pretrained` reads the release's layout from a local folder."""

    config_class = VilaConfig

    @staticmethod
    def weight_folders(folder: Any) -> tuple[str, ...]:
        """The folders whose weight files together are the model's: those of a release's parts, otherwise the folder itself."""
        return tuple(str(Path(folder) / part) for part in PARTS.values()) if is_release(folder) else (str(folder),)

    def __init__(self, config: VilaConfig) -> None:
        super(LlavaForConditionalGeneration, self).__init__(config)  # the inherited one would build a LLaVA first
        self.model = VilaModel(config)
        self.lm_head = MaskedHead(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load a model from a release's folder, or from one that `save_pretrained` wrote.

        Args:
            pretrained_model_name_or_path: the folder.
            args: see `PreTrainedModel.from_pretrained`.
            config: a configuration to use instead of the folder's.
            kwargs: see `PreTrainedModel.from_pretrained`: `dtype`, `device_map`, `attn_implementation` ...

        Raises:
            InputError: weight files are missing, damaged, or do not fit the configuration.
            UnsupportedModelError: a variant that is not supported; the message names the setting.
        """
        if not is_release(pretrained_model_name_or_path):
            return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)
        return load(cls, super().from_pretrained, pretrained_model_name_or_path, config, args, kwargs)
