"""What lists say about a method: its paper, where it acts, which signals it reads and what it must be given."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch

from foveate.errors import LayerError
from foveate.method import Method
from foveate.methods._staged import StagedMethod
from foveate.view import TOWER_SIGNALS

__all__ = ["MethodTraits", "traits_of"]

_ARXIV = re.compile(r"arxiv\.org/abs/(\d{4}\.\d{5})")
_GIVEN: dict[str, tuple[str, Any]] = {
    "compressor": ("a compressor trained for the model", "demo"),
    "relevance": ("the true relevance, given from Python", (torch.ones(1),)),
}
"""Options that a method cannot do without, in words, and a value that it accepts."""


@dataclass(frozen=True)
class MethodTraits:
    """What is known of a method before it has seen a model; where it acts and what it reads are those of its default options.

    Attributes:
        paper: the arXiv number that its docstring names; `None` for a baseline.
        own: whether it is the method of that paper, and not a variant or a baseline of it.
        layer: the decoder layer before which it acts.
        other_layers: whether any other layer is possible.
        stages: of a method that acts several times, its layers, an int each, or shares of the model's layers.
        signals: names of the signals that it reads, sorted (see `foveate.view.SIGNALS`).
        given: in words what it must be given beside its budget.
        made: whether the above could be found: a method whose options have no defaults is not asked, and `signals` is empty.
    """

    paper: str | None
    own: bool
    layer: int = 0
    other_layers: bool = True
    stages: tuple[int | float, ...] = ()
    signals: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    made: bool = True

    @property
    def url(self) -> str | None:
        """The address of the paper."""
        return None if self.paper is None else f"https://arxiv.org/abs/{self.paper}"

    @property
    def anywhere(self) -> bool:
        """Whether every family gives what it reads: all of them give what needs only the decoder."""
        return not TOWER_SIGNALS & set(self.signals)

    @property
    def acts_before(self) -> str:
        """Where it acts, in a few words: "layer 2", "layer 0 only" or "0.25, 0.5, 0.75 of the layers"."""
        if not self.made:
            return "unknown"
        if self.stages:
            shares = all(isinstance(stage, float) for stage in self.stages)
            listed = ", ".join(f"{stage:.2g}" for stage in self.stages)
            return f"{listed} of the layers" if shares else f"layers {listed}"
        return f"layer {self.layer}" + ("" if self.other_layers else " only")


def traits_of(kind: type[Method]) -> MethodTraits:
    """The traits of a method class, from its docstring and from an instance with default options."""
    text = kind.__doc__ or ""
    found = _ARXIV.search(text)
    paper, own = (found[1] if found else None), "Paper:" in text
    options = {field.name: field for field in fields(kind)}
    given = {name: words for name, (words, _) in _GIVEN.items() if name in options}
    missing = [
        name
        for name, field in options.items()
        if field.init and field.default is MISSING and field.default_factory is MISSING and name not in ("keep", *_GIVEN)
    ]
    words = (*given.values(), *(f"the option {name}" for name in missing))
    if missing:
        return MethodTraits(paper, own, given=words, made=False)
    made = _made(kind, given)
    stages = tuple(made.at) if isinstance(made, StagedMethod) else ()
    return MethodTraits(paper, own, made.layer, _moves(kind, given, made.layer), stages, tuple(sorted(made.needs)), words)


def _made(kind: type[Method], given: Any, **options: Any) -> Method:
    return kind(keep=1, **{name: _GIVEN[name][1] for name in given}, **options)


def _moves(kind: type[Method], given: Any, layer: int) -> bool:
    try:
        _made(kind, given, layer=layer + 1)
    except LayerError:
        return False
    return True
