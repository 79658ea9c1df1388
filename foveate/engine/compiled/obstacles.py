"""What in a call keeps decoder layers from running as compiled code, as a reason for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode
from transformers.utils import output_capturing

from foveate.engine.arguments import CACHE_NAMES, cache_of
from foveate.engine.cache import physical_length

__all__ = ["KNOWN", "about_call"]

KNOWN = frozenset({*CACHE_NAMES, "attention_mask", "position_embeddings", "position_ids"})
"""Arguments of a layer that compiled code has places for, or makes itself."""


def about_call(first: int, states: Tensor, kwargs: Mapping[str, Any]) -> str | None:
    """What in a call of decoder layer `first` compiled code cannot take; `None` if nothing.

    Args:
        first: the first of the compiled layers.
        states: (b, n, d), what enters it.
        kwargs: its arguments by name.
    """
    if is_in_torch_dispatch_mode():
        return "a TorchDispatchMode watches every operation, and compiled code runs others"
    if torch.is_autocast_enabled(states.device.type):
        return "autocast is on, which casts weights anew for each call; load the model in the precision that it runs in"
    if states.is_cuda and torch.cuda.is_current_stream_capturing():
        return "the whole call is being captured"
    if getattr(output_capturing, "_active_collector", None) is None or output_capturing._active_collector.get():
        return "output_hidden_states or output_attentions asks for what is inside the compiled code"
    layers = getattr(cache_of(kwargs), "layers", ())
    if first < len(layers) and physical_length(layers[first]):
        return "the cache holds tokens of an earlier turn"
    return _about_arguments(states, kwargs)


def _about_arguments(states: Tensor, kwargs: Mapping[str, Any]) -> str | None:
    mask, tokens = kwargs.get("attention_mask"), states.shape[1]
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 4 and mask.shape[2:] == (tokens, tokens)):
        found = f"of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"that is a {type(mask).__name__}"
        return f"the layers are given an attention mask {found}, which cannot be made longer; rows of one length need none"
    for name, value in kwargs.items():
        if name not in KNOWN and not isinstance(value, bool | int | float | str | None):
            return f"the layers are given {name}, a {type(value).__name__}, which may change from call to call"
    return None
