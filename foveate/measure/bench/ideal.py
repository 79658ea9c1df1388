"""The cost of compression if choosing were free: the same decoder on fewer tokens, without any method."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.injection import Injection
from foveate.engine.slots import Slots, shorten
from foveate.families import family_of

__all__ = ["ideal"]


@contextlib.contextmanager
def ideal(model: nn.Module, columns: Tensor, layer: int) -> Iterator[None]:
    """Feed decoder layers from `layer` on only some columns of each prefill; nothing is chosen, merged or trimmed.

    With `layer=0` this is a prompt that never had the other tokens. The decoder's caches are right for timing, not for answers.

    Args:
        model: a model of a known family.
        columns: (k,) ascending columns of the prompt that stay, in every row alike; rows must not be padded.
        layer: the first decoder layer that is given the short sequence.
    """
    family = family_of(model)
    layers = family.layers(model)
    short: dict[str, Any] = {}
    injections: list[Injection] = []
    columns = columns.cpu()

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        short.clear()
        injections.clear()
        kwargs = dict(kwargs)
        injected = family.injected(kwargs)
        if injected:
            injections.append(Injection(*injected))
        return args, kwargs

    def cut(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states = args[0]
        if states.shape[1] == 1:
            return follow(module, args, kwargs)
        where = columns.to(states.device)
        short["position_embeddings"] = tuple(part.index_select(-2, where) for part in kwargs["position_embeddings"])
        short["position_ids"] = torch.arange(len(where), device=states.device).expand(states.shape[0], -1)
        mask = kwargs.get("attention_mask")
        if isinstance(mask, Tensor):
            short["attention_mask"] = mask.index_select(-1, where)
            if mask.ndim == 4:
                short["attention_mask"] = short["attention_mask"].index_select(-2, where)
        for injection in injections:
            leaving = torch.ones(states.shape[:2], dtype=torch.bool)
            leaving[:, columns] = False
            injection.follow(shorten(Slots.of_input(torch.ones_like(leaving)), leaving))
        return (states.index_select(1, where), *args[1:]), {**kwargs, **short}

    def follow(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # A new token sees every key that its layer has; a mask would be as long as the first layer's.
        return args, {**kwargs, "attention_mask": None} if args[0].shape[1] == 1 else {**kwargs, **short}

    def inject(index: int, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        for injection in injections:
            output = injection.add(index, output)
        return output

    hooks = [
        family.decoder(model).register_forward_pre_hook(enter, with_kwargs=True),
        layers[layer].register_forward_pre_hook(cut, with_kwargs=True),
        *(later.register_forward_pre_hook(follow, with_kwargs=True) for later in layers[layer + 1 :]),
        *(each.register_forward_hook(functools.partial(inject, index)) for index, each in enumerate(layers)),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
