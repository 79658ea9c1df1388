"""`foveate methods` and `foveate models`."""

from __future__ import annotations

import dataclasses

from foveate.chat.models import DEMO
from foveate.cli import console

__all__ = ["list_methods", "list_models"]


def list_methods(as_json: bool) -> None:
    """Print each method with the first line of its docstring."""
    import foveate.methods  # noqa: F401 - fills the registry
    from foveate.methods import methods

    known = methods()
    if as_json:
        console.put_json([{"name": name, "summary": method.summary(), "options": _options(method)} for name, method in known.items()])
    else:
        console.put_table(console.listing(("method", "what it does"), [(name, method.summary()) for name, method in known.items()]))


def _options(method: type) -> dict[str, object]:
    """The method's fields with their defaults; `None` where there is none."""
    fields = dataclasses.fields(method)
    return {field.name: None if field.default is dataclasses.MISSING else field.default for field in fields}


def list_models(as_json: bool) -> None:
    """Print the support matrix, the embedded model first, and why other models are refused."""
    from foveate.families import REFUSED, support
    from foveate.families.support import PROMPTS, SIGNALS

    rows = support()
    if as_json:
        console.put_json({"embedded": DEMO, "families": [row.to_dict() for row in rows], "refused": REFUSED})
        return
    what = [(DEMO, "", "the small model inside this package; knows its own scenes, not the world")]
    what += [(row.family, ", ".join(row.model_types), row.summary) for row in rows]
    console.put_table(console.listing(("family", "model types", "what it is"), what))
    console.put("")
    can = [(row.family, *row.cells()[2:]) for row in rows]
    console.put_table(console.listing(("family", *PROMPTS, *(name.replace("_", " ") for name in SIGNALS)), can))
    console.put("")
    console.put_table(console.listing(("refused", "because"), list(REFUSED.items())))
    console.put("any model of the types above can be named by folder or Hugging Face id: foveate ask --model ...", style="dim")
