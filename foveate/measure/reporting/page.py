"""One self-contained page about runs of `foveate eval`, `bench` and `analyse`: tables, figures, and what they were measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from foveate.errors import ParameterError
from foveate.measure.reporting.inputs import ResultFile, differences
from foveate.measure.reporting.sections import sections
from foveate.printable import printable

__all__ = ["page"]


def page(inputs: Sequence[ResultFile], *, mixed: bool = False) -> str:
    """The page as HTML, which loads nothing from elsewhere.

    Args:
        inputs: at least one, as returned by `read_inputs`.
        mixed: allow results of different models or data on one page, which then says so.

    Raises:
        ParameterError: they are of different models or data, and `mixed` is false.
    """
    warnings = differences(inputs)
    if warnings and not mixed:
        raise ParameterError(
            f"these results do not belong together: {'; '.join(warnings)}; pass mixed=True to put them on one page anyway", "mixed"
        )
    environment = Environment(
        loader=PackageLoader("foveate.measure.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, finalize=_fit
    )
    environment.filters["picture"] = Markup
    template = environment.get_template("report.html.jinja")
    return template.render(warnings=warnings, sections=list(sections(inputs)), runs=[_run(each) for each in inputs])


def _fit(value: Any) -> Any:
    """The printable form of a template value; all but the figures are escaped after it."""
    return value if isinstance(value, Markup) else printable(value, lines=True)


def _run(each: ResultFile) -> dict[str, Any]:
    """What one file of results was measured on, for the last section of the page."""
    facts = each.data["facts"]
    model: Mapping[str, Any] = each.model
    machine = facts.get("accelerator") or f"{facts.get('processor')}, {facts.get('threads')} threads"
    libraries = [f"{name} {facts[name]}" for name in ("foveate", "torch", "transformers", "lmms_eval", "python") if facts.get(name)]
    attention = ", ".join(f"{part} {kernel}" for part, kernel in (model.get("attention") or {}).items())
    rows = {
        "command": each.data["command"],
        "model": f"{each.data['settings'].get('model') if each.kind != 'analyse' else ''} {model.get('class', '')}".strip(),
        "weights": f"{model.get('parameters', 0) / 1e6:.1f} M parameters, {model.get('dtype')}, {model.get('fingerprint')}",
        "revision": model.get("revision"),
        "attention": attention,
        "machine": machine,
        "versions": ", ".join(libraries),
        "date": facts.get("date"),
    }
    return {"name": each.name, "rows": {name: str(value) for name, value in rows.items() if value}}
