"""Where the visual tokens of a batch are in the sequence that the present layer sees: `VisualTokens`, image after image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from foveate.devices import require, upload
from foveate.engine.injection import Injection
from foveate.engine.readings import ATTENTION
from foveate.engine.slots import Route, Slots, averaged, shorten, take
from foveate.engine.tracking import TrackedImage
from foveate.errors import MethodError
from foveate.method import Method, brief
from foveate.plan import Plan
from foveate.report import Stage
from foveate.view import View

__all__ = ["VisualTokens"]


class VisualTokens:
    """The visual tokens of all images in one run of indices, on the device of the sequence, so that an operation is one for all images.

    Args:
        images: all images of the batch, whole.
        slots: the sequence as it enters the decoder.
        device: where that is.
    """

    def __init__(self, images: Sequence[TrackedImage], slots: Slots, device: torch.device) -> None:
        self.images = images
        width = slots.shape[1]
        # (t,) the slot of each token, counted over all rows.
        self._slots = upload(_joined(image.tokens.columns + image.row * width for image in images), device)
        # (t,) which tokens the mask shows; `None` where it shows all. What it hides leaves with the padding, and has no slot after a cut.
        self._shown = None if all(image.shown for image in images) else upload(slots.real.flatten(), device).index_select(0, self._slots)
        # (t,) which of its image's first tokens each is; `None` before the first cut.
        self._cells: Tensor | None = None

    def views(
        self,
        owners: Sequence[int],
        states: Tensor,
        by_slot: Mapping[str, Tensor],
        by_row: Sequence[Mapping[str, Tensor]],
        needs: frozenset[str],
    ) -> list[View]:
        """What a method sees.

        Args:
            owners: the images that it decides for.
            states: (b, n, d), what enters the layer.
            by_slot: (b, n, ...) each, likewise one entry per slot.
            by_row: for each row of the batch (q or heads, n) attention and (q, d) states.
            needs: names of the signals that the method reads.
        """
        self._follow(states.device)
        chosen = [self.images[owner] for owner in owners]
        counts = [image.count for image in chosen]
        whole = len(chosen) == len(self.images)
        slots = self._slots if whole else torch.cat([self._own(self._slots)[owner] for owner in owners])
        wanted = {"states": states, **{name: value for name, value in by_slot.items() if name in needs}}
        picked = {name: upload(value, states.device).flatten(0, 1).index_select(0, slots).split(counts) for name, value in wanted.items()}
        in_row = (slots % states.shape[1]).split(counts) if any(by_row) else ()
        cells = self._own(self._cells) if self._cells is not None else ()
        found = []
        for place, (owner, image) in enumerate(zip(owners, chosen, strict=True)):
            own = {name: parts[place] for name, parts in picked.items()}
            for name, value in by_row[image.row].items():
                if name in needs:
                    own[name] = value.index_select(1, in_row[place]) if name in ATTENTION else value
            left = cells[owner] if cells and image.count < image.tokens.columns.numel() else None
            found.append(image.view(own, left, needs))
        return found

    def cut(
        self, method: Method, plans: Sequence[Plan], states: Tensor, slots: Slots, injection: Injection | None, *, last: bool
    ) -> tuple[Route, Tensor]:
        """Carry out the plans, one for each image.

        Args:
            method: that made them.
            plans: for the tokens that each image has left.
            states: (b, n, d), what enters the layer.
            slots: the present sequence.
            injection: what the decoder adds to visual tokens later.
            last: whether no other method follows.

        Returns:
            the way to the shorter sequence, and its states (b, k, d).
        """
        device, width = states.device, slots.shape[1]
        self._follow(device)
        targets, orders = zip(*(plan.on(device) for plan in plans), strict=True)
        starts = [0, *accumulate(image.count for image in self.images)]
        places = torch.arange(starts[-1], device=device)
        counts = [plan.tokens_after for plan in plans]
        if len(plans) > 1:
            # For each token where its image starts, and at those places how many of the image stay.
            begins = _joined(torch.full((image.count,), start) for image, start in zip(self.images, starts, strict=False))
            promised = torch.zeros_like(begins).scatter_(0, torch.tensor(starts[:-1]), torch.tensor(counts))
            first, expected = upload(torch.stack([begins, promised]), device).unbind()
            target = torch.cat(targets) + first
            # What is dropped points in front of its image.
            stays = target == places
            require((torch.zeros_like(first).index_add_(0, first, stays.long()) == expected).all(), lambda: _miscounted(method))
        else:
            target = targets[0]
            stays = target == places
            require(stays.sum() == counts[0], lambda: _miscounted(method))
        route = shorten(slots, self._leaving(stays, slots), self._counts(plans, slots))
        short = take(states, route.source)
        merged = [order if start == 0 else order + start for order, start in zip(orders, starts, strict=False) if order is not None]
        if merged:
            others = merged[0] if len(merged) == 1 else torch.cat(merged)
            into, comes_from = self._slots[target[others]], self._slots[others]
            rows = averaged(short.flatten(0, 1), _after(route, into, width), states.flatten(0, 1).index_select(0, comes_from))
            short = rows.view(short.shape)
            if injection is not None:
                injection.merge(into, comes_from)
        if injection is not None:
            injection.follow(route)
        for image, plan in zip(self.images, plans, strict=True):
            image.count = plan.tokens_after
            image.stages = (*image.stages, Stage(str(method), method.layer, plan))
        if not last:
            kept = torch.sort((~stays).byte(), stable=True).indices[: sum(counts)]
            self._slots = _after(route, self._slots[kept], width)
            self._shown = None if self._shown is None else self._shown[kept]
            cells = (places if len(plans) == 1 else places - first) if self._cells is None else self._cells
            self._cells = cells[kept]
        return route, short

    def _follow(self, device: torch.device) -> None:
        """Where layers are on several devices, indices go with the states."""
        self._slots = upload(self._slots, device)
        self._cells = None if self._cells is None else upload(self._cells, device)
        self._shown = None if self._shown is None else upload(self._shown, device)

    def _leaving(self, stays: Tensor, slots: Slots) -> Tensor:
        """Which slots (b, n) leave, as `stays` (t,) says of the visual tokens."""
        if self._shown is None:
            leaving = torch.zeros(slots.real.numel(), dtype=torch.bool, device=stays.device).scatter_(0, self._slots, ~stays)
        else:
            # After a cut a hidden token names the slot of another one, which must not leave with it.
            leaves = (~stays & self._shown).int()
            leaving = torch.zeros(slots.real.numel(), dtype=torch.int, device=stays.device).index_add_(0, self._slots, leaves) > 0
        return leaving.view(slots.shape)

    def _counts(self, plans: Sequence[Plan], slots: Slots) -> list[int] | None:
        """How many slots of each row remain; `None` where only the device knows, because the mask hides some that leave."""
        counts = list(slots.counts)
        for image, plan in zip(self.images, plans, strict=True):
            if plan.tokens_after < image.count:
                if not image.shown:
                    return None
                counts[image.row] -= image.count - plan.tokens_after
        return counts

    def _own(self, values: Tensor) -> tuple[Tensor, ...]:
        """The part of each image."""
        return values.split([image.count for image in self.images])


def _after(route: Route, slots: Tensor, width: int) -> Tensor:
    """The slots, counted over all rows, that present ones go to; `width` is that of the present sequence."""
    moved = route.target.flatten().index_select(0, slots)
    return moved if len(route.target) == 1 else moved + slots // width * route.source.shape[1]


def _joined(parts: Iterable[Tensor]) -> Tensor:
    found = list(parts)
    return found[0] if len(found) == 1 else torch.cat(found)


def _miscounted(method: Method) -> MethodError:
    return MethodError(f"{brief(method)}: a plan keeps another number of visual tokens than it says (tokens_after); see Plan.deferred")
