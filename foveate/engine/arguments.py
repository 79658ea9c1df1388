"""What a transformers forward is given and returns, by meaning: the installed version decides what the key/value cache is called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask

__all__ = ["CACHE_NAMES", "as_argument", "cache_of", "named", "parameters_of", "with_cache"]

CACHE_NAMES = ("cache", "past_key_values")
"""What the cache's argument is called: from transformers 5.24 on, and in earlier versions."""


def cache_of(kwargs: Mapping[str, Any]) -> Any:
    """The key/value cache among the arguments, or in the output, of a model, decoder or layer; `None` where there is none.

    By its names, or else by its type: a transformers version that calls it otherwise changes nothing.
    """
    for name in CACHE_NAMES:  # a plain loop: this is asked in every layer
        found = kwargs.get(name)
        if found is not None:
            return found
    return next((value for value in kwargs.values() if isinstance(value, Cache)), None)


def as_argument(cache: Any) -> dict[str, Any]:
    """A key/value cache under the name by which the installed transformers takes it."""
    known = inspect.signature(create_causal_mask).parameters
    return {next(name for name in CACHE_NAMES if name in known): cache}


def with_cache(kwargs: Mapping[str, Any], cache: Any) -> dict[str, Any]:
    """The same arguments with another cache in the place of theirs, if they have one."""
    own = cache_of(kwargs)
    return {name: cache if own is not None and value is own else value for name, value in kwargs.items()}


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """The names of a module's forward, in order, as far as they may be passed by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, given in inspect.signature(module.forward).parameters.items() if given.kind in kinds)


def named(parameters: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments by name, as far as the names are known; the rest stays by position."""
    if not args or len(args) > len(parameters):
        return args, dict(kwargs)
    return (), {**dict(zip(parameters, args, strict=False)), **kwargs}
