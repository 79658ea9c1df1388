"""Lay out prompts with their answers for a model's forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from foveate.engine.arguments import CACHE_NAMES
from foveate.errors import InputError

__all__ = ["answers_of", "checked_answers", "checked_inputs", "laid_out"]

_REFUSED = {
    "inputs_embeds": "they do not show which tokens are visual; pass input_ids",
    "position_ids": "the model makes its own; omit them",
    "labels": "the answer is what is explained; pass it as answer=",
    **dict.fromkeys(CACHE_NAMES, "relevance needs the whole prompt; omit the cache"),
}


def checked_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The processor's mapping as a dictionary, with an attention mask.

    Raises:
        InputError: it is not a processor's output.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    for name, reason in _REFUSED.items():
        if name in given:
            raise InputError(f"relevance takes the processor's output without {name}: {reason}")
    ids = given.get("input_ids")
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not ids.numel():
        raise InputError(f"input_ids must be a tensor (batch, length) with something in it; got {_shape(ids)}")
    mask = given.setdefault("attention_mask", torch.ones_like(ids))
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {_shape(mask)}, but input_ids has {_shape(ids)}; pass the processor's 2-D mask")
    empty = (~mask.bool().any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"row {empty[0]} of attention_mask has no 1, so the prompt is empty")
    return given


def laid_out(inputs: Mapping[str, Any], answers: Sequence[Tensor], side: Literal["left", "right"], pad: int) -> dict[str, Any]:
    """Remove the padding of prompts, append each row's answer, and pad again.

    Args:
        inputs: see `checked_inputs`.
        answers: (a,) long per row, may be empty.
        side: the side on which shorter rows are padded.
        pad: the padding id.

    Returns:
        the inputs; whatever has one entry per token of input_ids (the mask, token types) is laid out likewise.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    along = [name for name, value in inputs.items() if isinstance(value, Tensor) and value.shape == ids.shape and name != "pixel_values"]
    lengths = mask.sum(1) + torch.tensor([len(answer) for answer in answers], device=mask.device)
    width = int(lengths.max())
    result = dict(inputs)
    for name in along:
        result[name] = inputs[name].new_full((len(ids), width), pad if name == "input_ids" else 0)
    for row, answer in enumerate(answers):
        first = width - int(lengths[row]) if side == "left" else 0
        prompt = int(mask[row].sum())
        following = slice(first + prompt, first + prompt + len(answer))
        for name in along:
            result[name][row, first : first + prompt] = inputs[name][row, mask[row]]
        result["input_ids"][row, following] = answer.to(ids.device)
        result["attention_mask"][row, following] = 1
    return result


def checked_answers(given: Any, rows: int, vocabulary: int, placeholders: Sequence[int]) -> tuple[Tensor, ...]:
    """Answers as (a,) long tensors on the CPU.

    Args:
        given: token ids, one sequence per row.
        rows: of the batch.
        vocabulary: how many ids the model knows, from 0.
        placeholders: ids that stand for images.

    Raises:
        InputError: a row is missing, empty, or has an id that is not text.
    """
    try:
        answers = tuple(torch.as_tensor(answer, dtype=torch.long).detach().cpu() for answer in given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"answer must be token ids, one sequence per row of the batch; got {type(given).__name__} ({error})") from error
    if len(answers) != rows or any(answer.ndim != 1 for answer in answers):
        shapes = [tuple(answer.shape) for answer in answers[:8]]
        raise InputError(f"answer must be one sequence of token ids per row, {rows} in all; got {len(answers)} of shapes {shapes}")
    for row, answer in enumerate(answers):
        if not answer.numel():
            raise InputError(f"the answer of row {row} is empty, so there is nothing to explain; give it a token, or omit the row")
        wrong = answer[(answer < 0) | (answer >= vocabulary)].tolist()
        if wrong:
            raise InputError(f"the answer of row {row} has token id {wrong[0]}, but this model's vocabulary is 0..{vocabulary - 1}")
        visual = answer[torch.isin(answer, torch.tensor(placeholders, dtype=torch.long))].tolist()
        if visual:
            raise InputError(f"the answer of row {row} has token id {visual[0]}, which stands for an image; pass the ids of the text alone")
    return answers


def answers_of(generated: Tensor, ends: Sequence[int]) -> tuple[Tensor, ...]:
    """The rows of what `generate` added (b, a), up to the end of sequence, on the CPU."""
    rows = []
    for row in generated.cpu():
        stops = torch.isin(row, torch.tensor(ends, dtype=torch.long)).nonzero().flatten()
        rows.append(row[: int(stops[0])] if len(stops) else row)
    return tuple(rows)


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
