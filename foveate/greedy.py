"""The likeliest answer, whatever sampling a checkpoint's own settings ask for."""

from __future__ import annotations

from typing import Any

__all__ = ["greedy"]


def greedy(padding: int | None) -> dict[str, Any]:
    """Options of `generate`. With a checkpoint's own ones, two answers would differ for no reason of compression, and from run to run.

    Args:
        padding: the token id that fills up rows which have ended.
    """
    return {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None, "pad_token_id": padding}
