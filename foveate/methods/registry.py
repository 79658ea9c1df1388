"""Finding a method by name."""

from __future__ import annotations

import difflib
import re

from foveate.errors import UnknownNameError
from foveate.method import REGISTRY, Method

__all__ = ["find_method", "methods"]


def methods() -> dict[str, type[Method]]:
    """The methods that come with foveate, by name."""
    return dict(sorted(REGISTRY.items()))


def find_method(name: str) -> type[Method]:
    """The method class called `name` (case, dashes and underscores do not matter).

    Raises:
        UnknownNameError: with the nearest name and all known ones.
    """
    known, wanted = methods(), re.sub(r"[-_ ]", "", name).lower()
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UnknownNameError(f"unknown method {name!r}: {hint}known methods are {', '.join(known)}")
