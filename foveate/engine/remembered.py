"""Runs a model over the same pictures many times, but its vision tower once for each."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.engine.signals.tower import reading_now
from foveate.engine.standins import StandIns
from foveate.families import family_of

__all__ = ["remembered_features"]

_ELSEWHERE = frozenset({"use_cache"})
"""Arguments that a forward passes to its encoder although they concern the text decoder alone."""


@contextlib.contextmanager
def remembered_features(model: nn.Module, most: int | None = None) -> Iterator[None]:
    """Inside this context the features of a picture (or video) are computed once and then remembered, bit for bit.

    Where features depend on pixels alone, the key is the picture; elsewhere it is the whole call, with all its arguments. Signals of the
    vision tower are remembered as well, once a method has read them.

    Args:
        model: a loaded model of a known family, whose features need no gradients.
        most: how many pictures or calls are remembered; the one used longest ago is forgotten first. `None`: all.
    """
    family = family_of(model)
    backbone: Any = family.backbone(model)
    stand_ins = StandIns(backbone)
    for name in family.encoders:
        if hasattr(backbone, name):
            stand_ins.put(name, _remembering(most))
    try:
        yield
    finally:
        stand_ins.remove()


@dataclass(frozen=True)
class _Memory:
    """What the encoder made of a picture or call, and what was read in the tower meanwhile.

    Attributes:
        output: the encoder's.
        wanted: names of the signals that were read, whether or not the tower has them.
        signals: as `TowerProbe.read` returned them.
    """

    output: Any
    wanted: frozenset[str]
    signals: Mapping[str, Tensor]


def _remembering(most: int | None) -> Callable[..., Any]:
    known: OrderedDict[bytes, _Memory] = OrderedDict()

    def recall(compute: Callable[..., Any], key: bytes, *args: Any, **kwargs: Any) -> Any:
        probe = reading_now()
        memory = known.get(key)
        if memory is None or (probe is not None and not probe.wanted <= memory.wanted):
            known[key] = _encoded(memory, compute, *args, **kwargs)
            if most is not None and len(known) > most:
                known.popitem(last=False)
        elif probe is not None:
            probe.show(memory.signals)
        known.move_to_end(key)
        return known[key].output

    def remember(compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = dict(inspect.signature(compute).bind_partial(*args, **kwargs).arguments)
        given |= given.pop("kwargs", {})
        # A forward names the arguments that it does not use; `generate` omits them.
        given = {name: value for name, value in given.items() if value is not None and name not in _ELSEWHERE}
        pictures = given.pop("pixel_values", None)
        more = any(isinstance(value, Tensor) for value in given.values())
        if not isinstance(pictures, Tensor) or pictures.ndim != 4 or more or given.get("return_dict") is False:
            return recall(compute, _digest({**given, "pixel_values": pictures}), *args, **kwargs)
        found = [recall(compute, _digest({**given, "pixel_values": picture}), pixel_values=picture[None], **given) for picture in pictures]
        return _together(found)

    return remember


def _encoded(memory: _Memory | None, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> _Memory:
    """Encode, and add what this thread's probe reads to what is known already; the output stays the first one."""
    probe = reading_now()
    earlier = probe.seen if probe is not None else None
    with torch.no_grad():
        output = compute(*args, **kwargs)
    wanted, signals = (probe.wanted, probe.read(earlier)) if probe is not None else (frozenset(), {})
    if memory is None:
        return _Memory(output, wanted, signals)
    return _Memory(memory.output, memory.wanted | wanted, {**memory.signals, **signals})


def _together(found: list[Any]) -> BaseModelOutputWithPooling:
    """The outputs for one picture each as one for all of them, in the form that the model gives."""
    features = [output.pooler_output for output in found]
    if isinstance(features[0], Tensor):
        return BaseModelOutputWithPooling(pooler_output=torch.cat(features))
    return BaseModelOutputWithPooling(pooler_output=[part for own in features for part in own])


def _digest(arguments: Mapping[str, Any]) -> bytes:
    """A hash over values, and over the bytes of tensors."""
    digest = hashlib.sha256()
    for name, value in sorted(arguments.items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"{name}={value!r}".encode())
    return digest.digest()
