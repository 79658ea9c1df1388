"""Join prompts that were made one by one into batches."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["alike", "in_batches", "joined"]

T = TypeVar("T")


def joined(prompts: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """One mapping for several prompts of one row each, padded on the left.

    Args:
        prompts: a processor's output, all `alike`.
        pad: the id of padding.
    """
    first = prompts[0]
    if len(prompts) == 1:
        return dict(first)
    width = max(prompt["input_ids"].shape[1] for prompt in prompts)
    together: dict[str, Any] = {}
    for name in first:
        values = [prompt[name] for prompt in prompts]
        if _runs_along(name, first):
            values = [_padded(value, width, pad if name == "input_ids" else 0) for value in values]
        together[name] = torch.cat(values) if isinstance(values[0], Tensor) else [one for value in values for one in value]
    return together


def alike(prompt: Mapping[str, Any]) -> Hashable:
    """What prompts must share to be joined: the names of their inputs, and the shapes apart from length and number."""
    return tuple((name, _shape(name, prompt)) for name in sorted(prompt))


def in_batches(items: Iterable[tuple[Hashable, T]], size: int) -> Iterator[list[T]]:
    """Consecutive items with equal keys, at most `size` at a time, in order."""
    batch: list[T] = []
    last: Hashable = None
    for key, item in items:
        if batch and (key != last or len(batch) == size):
            yield batch
            batch = []
        batch.append(item)
        last = key
    if batch:
        yield batch


def _runs_along(name: str, prompt: Mapping[str, Any]) -> bool:
    """Whether an input has one entry per token, such as the mask or token types."""
    value = prompt[name]
    return isinstance(value, Tensor) and not value.is_floating_point() and value.shape == prompt["input_ids"].shape


def _shape(name: str, prompt: Mapping[str, Any]) -> Hashable:
    value = prompt[name]
    if _runs_along(name, prompt):
        return "tokens"
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else type(value).__name__


def _padded(value: Tensor, width: int, filling: int) -> Tensor:
    return torch.nn.functional.pad(value, (width - value.shape[1], 0), value=filling)
