"""What must hold in every compressed forward pass. Host integers only, so no check waits for a device."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.engine.versions import tested_range
from foveate.errors import ConsistencyError

__all__ = ["check_argument", "check_called", "check_length", "check_mask", "check_order", "check_shape", "check_used"]


def broken(what: str) -> ConsistencyError:
    """The error for an invariant that does not hold."""
    return ConsistencyError(
        f"{what}. The output of this forward pass would be wrong, so there is none. {tested_range()}. Install a tested version, remove "
        "anything else that changes the model's layers or their hooks, or remove the handle; with a tested version, please report this"
    )


def check_order(index: int, due: int) -> None:
    """Decoder layer `index` was called when layer `due` was due."""
    if index != due:
        raise broken(f"decoder layer {index} was called where layer {due} was due")


def check_called(called: int, layers: int) -> None:
    """All decoder layers were called once."""
    if called != layers:
        raise broken(f"the decoder finished after {called} of its {layers} layers, as counted by their hooks")


def check_shape(index: int, states: Tensor, planned: tuple[int, int]) -> None:
    """Decoder layer `index` sees the sequence (b, n, d) that is planned for it."""
    if states.shape[:2] != planned:
        raise broken(f"decoder layer {index} was given {tuple(states.shape[:2])} (rows, tokens) instead of the planned {planned}")


def check_mask(index: int, mask: Any, keys: int) -> None:
    """A mask that is a tensor, (b, k) or (b, 1 or heads, q, k), is as wide as the keys that decoder layer `index` is about to see."""
    if isinstance(mask, Tensor) and mask.shape[-1] != keys:
        raise broken(f"the attention mask of decoder layer {index} is {mask.shape[-1]} keys wide, but the layer has {keys}")


def check_length(index: int, held: int, planned: int) -> None:
    """The cache of decoder layer `index` holds as many keys as planned."""
    if held != planned:
        raise broken(f"the key/value cache of decoder layer {index} holds {held} keys instead of the planned {planned}")


def check_argument(index: int, name: str, kwargs: dict[str, Any]) -> None:
    """Decoder layer `index` is given an argument by name."""
    if kwargs.get(name) is None:
        raise broken(f"decoder layer {index} was not given {name}, which must follow the tokens; it was given {', '.join(sorted(kwargs))}")


def check_used(encoded: int, compressed: bool) -> None:
    """A forward pass that encoded images compressed them."""
    if encoded and not compressed:
        raise broken("the model encoded images, but its backbone and decoder ran past foveate's hooks, at full length")
