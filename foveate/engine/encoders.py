"""Records the calls of the vision encoder, for the forward pass that uses their features.

A plain forward encodes inside itself. `generate` encodes ahead of it and passes the features, in newer transformers
without the pixels or their sizes. So each call is recorded where it is made, and found again by the features themselves:
nothing has to be consumed in order, and nothing leaks from a call that failed into the next one.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.signals import TowerProbe
from foveate.engine.standins import StandIns
from foveate.engine.threads import PerThread
from foveate.errors import SignalError
from foveate.families import Encoding, Family, ImageTokens
from foveate.families.base import TOWER_SIGNALS

__all__ = ["Encoders", "sizes_of", "with_sizes"]

_MOST_SIZES = 2**14
"""Numbers in what may be the sizes of pictures; masks over pixels have more."""


@dataclass
class _Encoded:
    """What one thread has encoded: `ahead` of a forward, and `inside` the one that is running, if any."""

    ahead: list[tuple[weakref.ref[Any], Encoding]] = field(default_factory=list)
    inside: list[Encoding] | None = None
    busy: bool = False
    calls: int = 0


class Encoders:
    """Records the calls of a backbone's encoder methods until `remove`.

    Args:
        model: the model that was given to `compress`.
        family: its family.
        signals: vision-tower signals that are to be read in every call.
    """

    def __init__(self, model: nn.Module, family: Family, signals: frozenset[str]) -> None:
        self._model, self._family, self._signals = model, family, signals
        self._backbone = family.backbone(model)
        self._threads = PerThread(_Encoded)
        self._stand_ins = StandIns(self._backbone)
        for name, kind in family.encoders.items():
            if hasattr(self._backbone, name):
                self._stand_ins.put(name, functools.partial(self._record, kind))

    @property
    def calls(self) -> int:
        """How many calls this thread has recorded."""
        return self._threads.own.calls

    def remove(self) -> None:
        """Restore the backbone's own methods."""
        self._stand_ins.remove()
        self._threads = PerThread(_Encoded)

    def enter(self) -> None:
        """A forward pass of the backbone begins."""
        self._threads.own.inside = []

    def leave(self) -> None:
        """A forward pass of the backbone has ended, or failed."""
        self._threads.own.inside = None

    def seen(self, features: Mapping[str, Any] | None) -> tuple[list[Encoding], int]:
        """The calls whose features this forward pass uses, and how many copies of each sample `generate` made since.

        Args:
            features: what the forward was given as `mm_encoder_outputs`: the encoder's output by kind, or `None`.
        """
        own = self._threads.own
        found, copies = list(own.inside or ()), 1
        for kind, output in (features or {}).items():
            if output is None or any(encoding.kind == kind for encoding in found):
                continue
            known = next((encoding for made, encoding in own.ahead if made() is output), None)
            now = _lengths(output)
            if known is None:
                known = Encoding(kind, {}, now)  # type: ignore[arg-type]
            elif known.lengths:
                copies = max(copies, len(now) // len(known.lengths))
            found.append(known)
        return found, copies

    def signals(
        self, seen: Sequence[Encoding], images: Sequence[Sequence[ImageTokens]], needs: frozenset[str]
    ) -> list[list[dict[str, Tensor]]]:
        """The vision-tower signals that were read, per row and image, (n, ...) each.

        Raises:
            SignalError: the features were computed while no handle was there to read them.
        """
        found: list[list[dict[str, Tensor]]] = [[{} for _ in row] for row in images]
        for name in sorted(needs & TOWER_SIGNALS):
            for kind in ("image", "video"):
                places = [(r, i) for r, row in enumerate(images) for i, image in enumerate(row) if image.kind == kind]
                parts = [part for encoding in seen if encoding.kind == kind for part in self._folded(name, encoding)]
                sizes = [images[row][position].columns.numel() for row, position in places]
                read = sum(len(part) for part in parts)
                if read != sum(sizes):
                    raise SignalError(
                        f"{name} was read for {read} of {sum(sizes)} tokens of {kind}s: features that were computed before compress() "
                        f"carry no signals; pass the pixels themselves, or a method that does not need {name}"
                    )
                # An encoder may be given an image as several crops, which only the prompt joins.
                values = torch.cat(parts).split(sizes) if parts else ()
                for (row, position), value in zip(places, values, strict=True):
                    found[row][position][name] = value.squeeze(1) if name == "tower_attention" else value
        return found

    def _folded(self, name: str, encoding: Encoding) -> list[Tensor]:
        values = encoding.signals.get(name)
        return [] if values is None else self._family.fold(self._model, name, values, encoding)

    def _record(self, kind: Any, encode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        own = self._threads.own
        if own.busy:  # a video method that calls the one for images
            return encode(*args, **kwargs)
        probe = self._probe()
        own.busy = True
        try:
            output = encode(*args, **kwargs)
        finally:
            own.busy = False
            probe.detach()
        arguments = _arguments(inspect.signature(encode), args, kwargs)
        encoding = Encoding(kind, arguments, _lengths(output), probe.read(), probe.spent)
        own.calls += 1
        if own.inside is not None:
            own.inside.append(encoding)
        # Inside or not: a forward that was interrupted never says that it has ended.
        own.ahead = [(made, known) for made, known in own.ahead if made() is not None]
        if not isinstance(output, tuple):  # tuples cannot be handed to a forward
            own.ahead.append((weakref.ref(output), encoding))
        return output

    def _probe(self) -> TowerProbe:
        model, family = self._model, self._family
        attention = family.tower_attention(model) if "tower_attention" in self._signals else None
        projector = family.projector(model) if "tower_states" in self._signals else None
        return TowerProbe(attention, attention is not None and family.class_token(model), projector)


def sizes_of(call: Encoding) -> list[Tensor]:
    """What a call was told of its pictures' sizes: its small integer arguments."""
    return [value for value in call.arguments.values() if _is_size(value)]


def with_sizes(call: Encoding, sizes: list[Tensor]) -> Encoding:
    """The same call with such arguments taken from `sizes`, from the front."""
    return replace(call, arguments={name: sizes.pop(0) if _is_size(value) else value for name, value in call.arguments.items()})


def _is_size(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type != "meta" and not value.is_floating_point() and value.numel() <= _MOST_SIZES


def _arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    bound = dict(signature.bind_partial(*args, **kwargs).arguments)
    rest = next((name for name, p in signature.parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD), None)
    named = {**bound, **bound.pop(rest, {})} if rest else bound
    named.pop(rest, None)  # type: ignore[arg-type]
    return {name: _light(value) for name, value in named.items()}


def _light(value: Any) -> Any:
    """Pixels without their memory."""
    return torch.empty_like(value, device="meta") if isinstance(value, Tensor) and value.is_floating_point() else value


def _lengths(output: Any) -> tuple[int, ...]:
    features = output[0] if isinstance(output, tuple) else getattr(output, "pooler_output", output)
    if isinstance(features, Tensor):
        return (features.shape[0],) if features.ndim == 2 else (features.shape[1],) * features.shape[0]
    return tuple(part.shape[:-1].numel() for part in features) if features is not None else ()
