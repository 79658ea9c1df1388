"""The ways of running one prompt that are measured side by side: the full model, ideals, methods, and other ways of decoding."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from foveate.chat.counting import recorded
from foveate.compression import compress
from foveate.errors import InputError
from foveate.families import ImageTokens
from foveate.measure.bench.generating import Decoding
from foveate.measure.bench.ideal import ideal
from foveate.measure.bench.records import Row
from foveate.method import Method

__all__ = ["FULL", "Variant", "bound", "count_variants", "variants"]

FULL = "full"
"""The name of the full model's row."""
_TITLES = {"generate": "generate", "static": "static cache", "compiled": "compiled"}


@dataclass
class Variant:
    """One way of running the model.

    Compiled code belongs to one handle. For these ways a copy of the modules, which shares all weights, is compressed once
    and stays so, while the model itself runs in other ways in between.

    Attributes:
        row: takes what is measured.
        model: what runs.
        place: makes the context in which a model runs in this way.
    """

    row: Row
    model: nn.Module
    place: Callable[[nn.Module], AbstractContextManager[Any]]
    _lasting: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)
    _handle: Any = None
    _prepared: bool = False

    @property
    def lasts(self) -> bool:
        """Whether it stays in place between runs."""
        return self.row.decoding == "compiled" or self.row.compiled_layers

    @property
    def optional(self) -> bool:
        """Whether a model or a machine may be unable to run in this way, which is a result and no error."""
        return self.row.decoding != "loop" or self.row.compiled_layers

    def prepare(self) -> None:
        """Before each run; may take long before the first one."""
        if self.lasts and not self._prepared:
            self.model = _sharing(self.model)
            self._handle = self._lasting.enter_context(self.place(self.model))
            self._prepared = True

    def around(self) -> AbstractContextManager[Any]:
        """The context of one run, which gives the handle, if there is one."""
        return contextlib.nullcontext(self._handle) if self._prepared else self.place(self.model)

    def close(self) -> None:
        """Leave nothing in place."""
        self._lasting.close()


def variants(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    methods: Sequence[Method],
    decodings: Sequence[Decoding] = ("loop",),
    *,
    compiled_layers: bool = False,
) -> list[Variant]:
    """The full model and every method, decoded in each way; with the plain loop also both ideals of each budget.

    Args:
        model: a loaded model of a known family.
        inputs: a prompt with one image per row and no padding.
        methods: each at its own layer.
        decodings: ways of making new tokens.
        compiled_layers: also every method with compiled layers after its cut, in the plain loop.

    Raises:
        BudgetError, LayerError, SignalError: a method does not fit the model.
    """
    for method in methods:
        compress(model, method).remove()  # refuses layers and signals that do not exist
    image = _image(model, inputs)
    total, length = image.columns.numel(), inputs["input_ids"].shape[1]
    budgets = [method.budget(total, image.grid[0]) for method in methods]
    text = torch.ones(length, dtype=torch.bool)
    text[image.columns] = False
    made: list[Variant] = []
    for decoding in decodings:
        name = ", ".join(filter(None, (FULL, _TITLES.get(decoding))))
        made.append(Variant(Row(name, "full", total, decoding=decoding), model, lambda _: contextlib.nullcontext()))
        for method, keep in zip(methods, budgets, strict=True):
            if decoding == "loop":
                made += [_ideal(model, image, text, keep, layer) for layer in (0, method.layer)]
            made.append(Variant(_method_row(method, keep, decoding), model, partial(compress, method=method)))
            if decoding == "loop" and compiled_layers:
                made.append(
                    Variant(_method_row(method, keep, compiled_layers=True), model, partial(compress, method=method, compiled=True))
                )
    distinct: dict[str, Variant] = {}
    for variant in made:
        distinct.setdefault(variant.row.name, variant)
    return list(distinct.values())


def count_variants(methods: Sequence[Method], tokens: int, decodings: Sequence[Decoding], *, compiled_layers: bool) -> int:
    """How many `variants` there are for that many visual tokens, if the methods are distinct."""
    rivals = {(layer, method.budget(tokens)) for method in methods for layer in (0, method.layer)}
    looped = len(rivals) + len(methods) * compiled_layers if "loop" in decodings else 0
    return looped + (1 + len(methods)) * len(decodings)


def bound(made: Sequence[Variant], rows: Sequence[Row]) -> list[Variant]:
    """The same ways of running, writing to the rows of an earlier measurement.

    Raises:
        InputError: it has other rows.
    """
    mine, theirs = [variant.row.name for variant in made], [row.name for row in rows]
    if mine != theirs:
        raise InputError(f"the measurement to resume has other rows: {', '.join(theirs)}; this one has {', '.join(mine)}")
    return [replace(variant, row=row) for row, variant in zip(rows, made, strict=True)]


def _method_row(method: Method, keep: int, decoding: Decoding = "loop", *, compiled_layers: bool = False) -> Row:
    title = "compiled layers" if compiled_layers else _TITLES.get(decoding)
    rival = _ideal_name(keep, method.layer) if decoding == "loop" else None
    options = {"name": method.name, **asdict(method)}
    name = f"{method}, {title}" if title else str(method)
    return Row(name, "method", keep, method.layer, rival, options, decoding=decoding, compiled_layers=compiled_layers)


def _ideal(model: nn.Module, image: ImageTokens, text: Tensor, keep: int, layer: int) -> Variant:
    """Evenly spread visual tokens, from a layer on; `text` (s,) is true at the other columns."""
    stays = text.clone()
    stays[image.columns.sort().values[torch.linspace(0, image.columns.numel() - 1, keep).round().long()]] = True
    place = partial(ideal, columns=stays.nonzero()[:, 0], layer=layer)
    return Variant(Row(_ideal_name(keep, layer), "ideal", keep, layer), model, place)


def _ideal_name(keep: int, layer: int) -> str:
    return f"ideal {keep} from {f'layer {layer}' if layer else 'the start'}"


def _image(model: nn.Module, inputs: Mapping[str, Tensor]) -> ImageTokens:
    """The position of the image in each row, found by one forward pass."""
    with recorded(model) as images:
        with torch.no_grad():
            model(**inputs, use_cache=False, logits_to_keep=1)
        return images(inputs["input_ids"])[0][0]


def _sharing(model: nn.Module) -> nn.Module:
    """A copy of the modules with the same weights."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})
