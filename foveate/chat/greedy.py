"""The likeliest answer, whatever sampling a checkpoint's own generation settings ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foveate.errors import InputError

__all__ = ["generate_greedily"]

_OPTIONS = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}


def generate_greedily(model: Any, inputs: Mapping[str, Any], max_new_tokens: int, padding: int | None, **options: Any) -> Tensor:
    """Call `generate` for the likeliest answer. With a checkpoint's own settings, answers could differ from run to run.

    Args:
        model: a model of transformers.
        inputs: of the prompt.
        max_new_tokens: longest answer.
        padding: the token id that pads rows which have ended.
        options: of `generate`, in place of the greedy ones.

    Returns:
        the ids of prompt and answer, (b, n).

    Raises:
        InputError: logits are NaN, so that the likeliest token among them would be any.
    """
    check = _NaNCheck(at_once=bool(options.get("do_sample")))
    chosen = {**_OPTIONS, "pad_token_id": padding, **options}
    output: Tensor = model.generate(**inputs, max_new_tokens=max_new_tokens, logits_processor=[check], **chosen)
    check.raise_if_found()
    return output


class _NaNCheck:
    """A logits processor that changes nothing and remembers the first step with NaN, on the device, so that no step waits for it.

    Args:
        at_once: look at each step, because drawing from such logits fails in its own way.
    """

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self._lengths: list[int] = []
        self._found: list[Tensor] = []
        self._dtype = ""

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        self._lengths.append(ids.shape[1])
        self._found.append(logits.isnan().any())
        self._dtype = str(logits.dtype).removeprefix("torch.")
        if self._at_once:
            self.raise_if_found()
        return logits

    def raise_if_found(self) -> None:
        """Wait for the device once.

        Raises:
            InputError: a step had NaN; the message names the first one.
        """
        found = torch.stack(self._found).tolist() if self._found else []
        if any(found):
            raise InputError(
                f"this model's logits after {self._lengths[found.index(True)]} tokens are not numbers (NaN in {self._dtype}): it "
                f"overflows in its precision, or its weights are damaged; try bfloat16 or float32"
            )
