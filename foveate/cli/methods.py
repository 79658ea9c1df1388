"""`foveate methods`: what can compress."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from foveate.cli import console
from foveate.cli.options import JsonOption

if TYPE_CHECKING:
    from foveate.method import Method
    from foveate.methods.traits import MethodTraits

__all__ = ["ListMethods"]


@dataclass(frozen=True, kw_only=True)
class ListMethods(JsonOption):
    """List the methods, registered ones of your own included."""

    def run(self) -> None:
        """Print each method with the first line of its docstring, then its paper, where it acts, what it reads and what can carry it."""
        from foveate.methods import methods
        from foveate.methods.traits import traits_of

        known = [(name, method, traits_of(method)) for name, method in methods().items()]
        if self.as_json:
            console.put_json([_entry(*row) for row in known])
            return
        console.put_table(console.listing(("method", "what it does"), [(name, method.summary()) for name, method, _ in known]))
        console.put("")
        headers = ("method", "paper", "acts before", "reads", "needs", "families")
        console.put_table(console.listing(headers, [(name, *_cells(own)) for name, _, own in known]))
        console.put("with default options; families: foveate models lists them and their signals", style="dim")


def _cells(own: MethodTraits) -> tuple[str, ...]:
    """A row of the second table, after the name."""
    source = "baseline" if own.paper is None else own.paper if own.own else f"after {own.paper}"
    given = ", ".join(own.given) or "-"
    if not own.made:
        return (source, "?", "?", given, "?")
    reads = ", ".join(own.signals).replace("_", " ") or "-"
    return (source, own.acts_before, reads, given, "all" if own.anywhere else "with vision-tower signals")


def _entry(name: str, method: type[Method], own: MethodTraits) -> dict[str, Any]:
    """A method as plain values; `null` where an option without a default decides."""
    from foveate.families.support import carriers
    from foveate.methods.schema import options_of

    entry = {"name": name, "summary": method.summary(), "options": options_of(method).defaults}
    paper = {"arxiv": own.paper, "url": own.url, "own": own.own} if own.paper else None
    acts = {"layer": own.layer, "other_layers": own.other_layers, "stages": list(own.stages)}
    known = {"acts_before": acts, "signals": list(own.signals), "families": list(carriers(own.signals))}
    return {**entry, "paper": paper, **(known if own.made else dict.fromkeys(known)), "needs": list(own.given)}
