"""The likeliest answer, whatever sampling a checkpoint's own settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from foveate.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["greedy"]


def greedy(padding: int | None) -> dict[str, Any]:
    """Options of `generate`. With a checkpoint's own ones, two answers would differ for no reason of compression, and from run to run.

    Logits that are not numbers make an `InputError`, because the likeliest token among them is any.

    Args:
        padding: the token id that fills up rows which have ended.
    """
    options = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None, "pad_token_id": padding}
    return {**options, "logits_processor": [_numbers]}


def _numbers(ids: Tensor, logits: Tensor) -> Tensor:
    """A logits processor that changes nothing."""
    if bool(logits.isnan().any()):
        raise InputError(
            f"this model's logits after {ids.shape[1]} tokens are not numbers (NaN in {str(logits.dtype).removeprefix('torch.')}): it "
            f"overflows in its precision, or its weights are damaged; try bfloat16 or float32"
        )
    return logits
