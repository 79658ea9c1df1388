"""What surrounds a model: wrappers that are unwrapped, and ways of running it that are refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import nn

from foveate.errors import UnsupportedError, UnsupportedModelError
from foveate.families import Family

__all__ = [
    "check_generation",
    "check_hooks_run",
    "check_not_compiled",
    "generation_options",
    "new_tokens",
    "refuse_continuous_batching",
    "unwrapped",
]

_GUESSING = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp")
"""Options of `generate` that make it decode several guesses at once."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper, and any other model as it is.

    Raises:
        UnsupportedModelError: the adapter puts virtual tokens in front of the prompt.
    """
    inner: Any = getattr(model, "get_base_model", None)
    if inner is None:
        return model
    adapters: Any = model.peft_config
    for name, config in adapters.items():
        if getattr(config, "is_prompt_learning", False):
            raise UnsupportedModelError(
                f"adapter {name!r} ({type(config).__name__}) puts virtual tokens in front of the prompt, where no input_ids say which "
                "tokens are visual; use an adapter of the weights, such as LoRA"
            )
    return inner()  # type: ignore[no-any-return]


def check_hooks_run(model: nn.Module, family: Family) -> None:
    """Refuse compiled calls of the model and its backbone: code that is older than the hooks runs past them, at full length.

    Raises:
        UnsupportedError: naming the module.
    """
    for place, module in {"the model": model, "its backbone": family.backbone(model)}.items():
        if isinstance(getattr(module, "_orig_mod", None), nn.Module) or getattr(module, "_compiled_call_impl", None) is not None:
            raise UnsupportedError(
                f"{place} ({type(module).__name__}) is compiled by torch.compile, which does not see foveate's hooks; compress the model "
                "without it. generate(cache_implementation='static') compiles decoding steps itself, and the model's forward or its text "
                "decoder may be compiled for static caches"
            )


def check_not_compiled(model: nn.Module, family: Family) -> None:
    """Refuse torch.compile where hooks sit, unless a static cache is filled: steps on the dynamic cache need the hooks.

    Raises:
        UnsupportedError: naming the module.
    """
    layers = family.layers(model)
    places = {"the model": model, "its backbone": family.backbone(model), "its text decoder": family.decoder(model)}
    places |= {f"decoder layer {index}": layer for index, layer in enumerate(layers)}
    places |= {f"the attention of decoder layer {index}": family.attention(layer) for index, layer in enumerate(layers)}
    for place, module in places.items():
        if _is_compiled(module):
            raise UnsupportedError(
                f"{place} ({type(module).__name__}) is compiled by torch.compile, and decoding steps on the dynamic cache need foveate's "
                "hooks, which compiled code does not see; use a static cache (cache_implementation='static'), or compress the model "
                "without it. Compiling the vision tower or the decoder layers' MLPs alone is fine"
            )


def _is_compiled(module: nn.Module) -> bool:
    own = module.__dict__  # asking a module for an attribute that it lacks takes long, and this is asked of every layer
    wrapped, in_place = "_orig_mod" in own["_modules"], own.get("_compiled_call_impl") is not None
    return wrapped or in_place or ("forward" in own and hasattr(own["forward"], "_torchdynamo_orig_callable"))


def generation_options(generate: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of `generate` by name."""
    return {**dict(zip(inspect.signature(generate).parameters, args, strict=False)), **kwargs}


def check_generation(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Refuse ways of generating whose first forward is not the whole prompt and nothing else.

    Args:
        model: its own `generation_config` fills what the options leave open, as `generate` does.
        options: arguments of `generate` by name, of which `generation_config` may be one.

    Raises:
        UnsupportedError: naming the option.
    """
    chunk = _asked(model, options, "prefill_chunk_size")
    if chunk is not None:
        raise UnsupportedError(f"prefill_chunk_size={chunk} splits the prompt, and compression needs it whole; set it to None")
    for name in _GUESSING:
        value = _asked(model, options, name)
        if value is not None and value is not False:
            shown = type(value).__name__ if isinstance(value, nn.Module) else value
            raise UnsupportedError(
                f"assisted decoding ({name}={shown}) is not supported: its first forward ends in guesses, not in the prompt; omit {name}"
            )


def new_tokens(model: nn.Module, options: Mapping[str, Any]) -> int | None:
    """How many tokens a call of `generate` with these options is to generate; `None` where it says so in another way."""
    value = _asked(model, options, "max_new_tokens")
    return value if isinstance(value, int) else None


def _asked(model: nn.Module, options: Mapping[str, Any], name: str) -> Any:
    """An option of `generate`; the model's own `generation_config` fills what the call leaves open."""
    if name in options:
        return options[name]
    configs = [options.get("generation_config"), getattr(model, "generation_config", None)]
    return next((value for config in configs if (value := getattr(config, name, None)) is not None), None)


def refuse_continuous_batching(*_: Any, **__: Any) -> NoReturn:
    """Stands in for the entry point of continuous batching, which takes token ids alone.

    Raises:
        UnsupportedError: always.
    """
    raise UnsupportedError(
        "continuous batching (generate_batch, cache_implementation='paged') takes no images and pages its cache, so there is nothing that "
        "could be compressed; use generate, or remove the handle"
    )
