"""How a model may be called while its visual tokens are compressed. Any other call is refused before a decoder layer runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from foveate.errors import UnsupportedError
from foveate.families import Family

__all__ = ["asked_columns", "check_backbone_call", "check_decoder_call", "check_labels", "input_ids_of"]

_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx", "packed_sequence_mask")
"""Arguments that give the bounds of several samples in one row."""


def input_ids_of(kwargs: Mapping[str, Any]) -> Tensor:
    """The token ids of a call.

    Raises:
        UnsupportedError: there are none.
    """
    input_ids: Tensor | None = kwargs.get("input_ids")
    if input_ids is None:
        raise UnsupportedError(
            "inputs_embeds do not say which tokens are visual; pass input_ids and no inputs_embeds (generate drops the ids if it is given "
            "both), or remove the handle"
        )
    return input_ids


def check_labels(family: Family, model: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Refuse labels for a prompt with images.

    Raises:
        UnsupportedError: always then.
    """
    if kwargs.get("labels") is not None and _has_images(family, model, input_ids_of(kwargs)):
        raise UnsupportedError(
            "labels cannot be used while visual tokens are compressed, because the logits are fewer than the labels; "
            "call the model without labels and compute the loss from the logits, whose input columns are handle.report.columns"
        )


def check_backbone_call(family: Family, model: nn.Module, backbone: nn.Module, kwargs: Mapping[str, Any]) -> None:
    """Refuse replicas, and rows of several samples, before the vision tower runs.

    Raises:
        UnsupportedError: naming the argument.
    """
    if getattr(backbone, "_is_replica", False):
        raise UnsupportedError(
            "nn.DataParallel runs copies of the model that share one foveate handle; use DistributedDataParallel, device_map, or one "
            "process per device"
        )
    packed = _packed(kwargs)
    if packed is not None and _has_images(family, model, input_ids_of(kwargs)):
        raise UnsupportedError(
            f"{packed} pack several samples into one row, and their images cannot be compressed together; pass one sample per row, padded, "
            "with an attention_mask"
        )


def _packed(kwargs: Mapping[str, Any]) -> str | None:
    """What in these arguments says that a row holds several samples, as transformers reads them."""
    bounds = next((name for name in _PACKED if kwargs.get(name) is not None), None)
    positions = kwargs.get("position_ids")
    if bounds is not None or positions is None or kwargs.get("attention_mask") is not None:
        return bounds
    # Of several kinds of positions the first is that of text, if there are four, and otherwise that of time, which never falls.
    first = positions[0] if positions.ndim == 3 else positions
    steps = first.diff(dim=-1)
    restarts = (steps < 0) if positions.ndim == 3 and len(positions) == 3 else (steps != 1)
    return "position_ids that do not rise by one, with no attention_mask," if bool(restarts.any()) else None


def check_decoder_call(decoder: nn.Module, kwargs: Mapping[str, Any], *, compressing: bool) -> None:
    """Refuse what cannot be shortened with the tokens.

    Args:
        decoder: the text decoder.
        kwargs: its arguments by name.
        compressing: images are about to be compressed; else new tokens are decoded on a cache where they were.

    Raises:
        UnsupportedError: naming the argument or setting.
    """
    mask = kwargs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise UnsupportedError("a ready-made 4-D attention mask cannot be compressed; pass the 2-D attention_mask of the processor")
    if not compressing:
        return
    config: Any = decoder.config
    asked = kwargs.get("output_router_logits")
    if asked or (asked is None and getattr(config, "output_router_logits", False)):
        raise UnsupportedError(
            "output_router_logits=True computes a balance of experts over the whole prompt, but later layers route fewer tokens; set it to "
            "False in the call and in the text configuration"
        )
    if _replays_hooks(decoder):
        raise UnsupportedError(
            "gradient checkpointing in this transformers version runs hooks a second time in the backward pass, where the tokens that left "
            "are not known; install transformers 5.24, call model.gradient_checkpointing_disable(), or remove the handle"
        )


def _replays_hooks(decoder: nn.Module) -> bool:
    """Whether a backward pass would run hooks of checkpointed layers again: those that checkpoint their call, not their forward."""
    if not torch.is_grad_enabled() or "__call__" not in vars(GradientCheckpointingLayer):
        return False
    return any(getattr(layer, "gradient_checkpointing", False) and layer.training for layer in decoder.modules())


def asked_columns(kwargs: Mapping[str, Any], tokens: int) -> list[int] | None:
    """The input columns whose logits the caller names by `logits_to_keep`.

    Args:
        kwargs: the model's arguments by name.
        tokens: length of the input.

    Returns:
        `None` if all are taken as they come (0), or the last one alone (1), which is always the row's last token.
    """
    asked = kwargs.get("logits_to_keep")
    if asked is None or (isinstance(asked, int) and asked in (0, 1)):
        return None
    if isinstance(asked, int):
        asked = slice(-asked, None)
    elif isinstance(asked, Tensor):
        asked = asked.cpu()
    found: list[int] = torch.arange(tokens)[list(asked) if isinstance(asked, range) else asked].flatten().tolist()
    return found


def _has_images(family: Family, model: nn.Module, input_ids: Tensor) -> bool:
    visual = torch.tensor(list(family.placeholders(model).values()), device=input_ids.device)
    return bool(torch.isin(input_ids, visual).any())
