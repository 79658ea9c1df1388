"""`foveate methods`: what can compress."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.cli import console
from foveate.cli.options import JsonOption

__all__ = ["ListMethods"]


@dataclass(frozen=True, kw_only=True)
class ListMethods(JsonOption):
    """List the methods, registered ones of your own included."""

    def run(self) -> None:
        """Print each method with the first line of its docstring."""
        from foveate.methods import methods
        from foveate.methods.schema import options_of

        known = methods()
        if self.as_json:
            listed = [{"name": name, "summary": method.summary(), "options": options_of(method).defaults} for name, method in known.items()]
            console.put_json(listed)
        else:
            console.put_table(console.listing(("method", "what it does"), [(name, method.summary()) for name, method in known.items()]))
