"""`foveate methods` and `foveate models`."""

from __future__ import annotations

import dataclasses

from foveate.cli import console
from foveate.cli.models import DEMO

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
    """Print the embedded model and each family with the model types that it covers."""
    from foveate.families import families

    known = families()
    if as_json:
        rows = [{"name": name, "summary": family.summary, "model_types": list(family.model_types)} for name, family in known.items()]
        console.put_json({"embedded": DEMO, "families": rows})
        return
    lines = [(DEMO, "", "the small model inside this package; knows its own scenes, not the world")]
    lines += [(name, ", ".join(family.model_types), family.summary) for name, family in known.items()]
    console.put_table(console.listing(("family", "model types", "what it is"), lines))
    console.put("any model of these types can be named by folder or Hugging Face id: foveate ask --model ...", style="dim")
