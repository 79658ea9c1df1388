"""A method that keeps every token and remembers what it saw."""

from __future__ import annotations

from dataclasses import dataclass, field

from foveate.method import Method
from foveate.plan import Plan
from foveate.view import View

__all__ = ["Recorder"]


@dataclass(frozen=True)
class Recorder(Method):
    """Changes nothing: it runs at the language model's input, where labels are read."""

    keep: int | float = 1.0
    layer: int = 0
    views: list[View] = field(default_factory=list, compare=False, repr=False)

    @property
    def needs(self) -> frozenset[str]:
        """The signals that labels hold."""
        return frozenset({"head_attention"})

    def plan(self, view: View) -> Plan:
        """All tokens stay."""
        self.views.append(view)
        return Plan.identity(len(view))
