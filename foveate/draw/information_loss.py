"""Accuracy against information, from the results of `foveate analyse`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveate.draw.palette import INK, MUTED, Label, look, name_lines, style

__all__ = ["draw", "panels"]

_SOURCES = {"hidden_states": "hidden states that enter layer {}", "attention_output": "attention output of layer {}"}
_MEASURE = "effective_rank"
_ROOM = 0.3
"""The share of the width that is reserved for names on the left."""


def draw(document: Mapping[str, Any], layer: int | None = None) -> Figure:
    """Two charts for each source of states: all methods and budgets, and methods against each other at equal budgets.

    Args:
        document: what `foveate analyse` wrote.
        layer: decoder layer where information was measured; `None` for that of the cut, or the first measured one if that was not measured.
    """
    with look():
        figure = Figure(figsize=(10, 7.6), layout="constrained")
        for axes, paint in zip(figure.subplots(2, 2).flat, _panels(document, layer), strict=True):
            paint(axes)
    return figure


def panels(document: Mapping[str, Any], layer: int | None = None) -> Iterator[Figure]:
    """The charts of `draw` one by one, narrow enough for a phone."""
    for paint in _panels(document, layer):
        with look():
            figure = Figure(figsize=(3.9, 3.4), layout="constrained")
            paint(figure.subplots())
        yield figure


def _panels(document: Mapping[str, Any], layer: int | None) -> Iterator[Callable[[Axes], None]]:
    layers, cut = document["settings"]["layers"], document["settings"]["layer"]
    layer = layer if layer is not None else cut if cut in layers else layers[0]
    for source, words in _SOURCES.items():
        wanted = (source, layer, _MEASURE)
        found = next(entry for entry in document["correlations"] if (entry["source"], entry["layer"], entry["measure"]) == wanted)
        what, name = words.format(layer), f"{source} {layer} {_MEASURE}"
        yield lambda axes, name=name, found=found, what=what: _all_cells(  # type: ignore[misc]
            axes, document, name, f"{what}:\nSpearman {_said(found['cells'])}"
        )
        yield lambda axes, name=name, found=found, what=what: _equal_budgets(  # type: ignore[misc]
            axes, document, name, f"{what}, at equal budgets:\nSpearman {_said(found['equal_budget'])}"
        )


def _said(found: Mapping[str, Any]) -> str:
    spearman = found["spearman"]
    if spearman["value"] is None:
        return "unknown"
    return f"{spearman['value']:+.2f} ({spearman['low']:+.2f} to {spearman['high']:+.2f})"


def _all_cells(axes: Axes, document: Mapping[str, Any], name: str, title: str) -> None:
    labels = []
    full = document["full"]
    for method, cells in _by_method(document).items():
        chosen = style(method)
        x = [cell["information"][name] for cell in cells]
        y = [100 * cell["accuracy"]["value"] for cell in cells]
        axes.plot(x, y, color=chosen.colour, marker=chosen.mark, linewidth=1, alpha=0.9)
        labels.append(Label(x[-1], y[-1], f"{chosen.name}, {cells[-1]['keep']}", chosen.colour))
    star = full["information"][name], 100 * full["accuracy"]["value"]
    axes.plot(*star, color=INK, marker="*", markersize=11, linestyle="none")
    axes.set(title=title, xlabel="effective rank of the tokens kept", ylabel="answers right, %")
    left, right = axes.get_xlim()
    axes.set_xlim(left - _ROOM * (right - left), right)
    name_lines(axes, labels, before=True)  # lines continue to the right
    axes.annotate(f"all {full['keep']}", star, (0, 8), textcoords="offset points", color=INK, fontsize=8.5, ha="center")


def _equal_budgets(axes: Axes, document: Mapping[str, Any], name: str, title: str) -> None:
    labels = []
    grouped = _by_method(document)
    information = np.array([[cell["information"][name] for cell in cells] for cells in grouped.values()])
    accuracy = np.array([[100 * cell["accuracy"]["value"] for cell in cells] for cells in grouped.values()])
    information, accuracy = information - information.mean(0), accuracy - accuracy.mean(0)
    for method, x, y in zip(grouped, information, accuracy, strict=True):
        chosen = style(method)
        axes.plot(x, y, color=chosen.colour, marker=chosen.mark, linestyle="none", alpha=0.75)
        last = int(x.argmax())
        labels.append(Label(float(x[last]), float(y[last]), chosen.name, chosen.colour))
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set(title=title, xlabel="effective rank, over the mean at that budget", ylabel="points over the mean at that budget")
    axes.margins(x=0.15)
    name_lines(axes, labels)


def _by_method(document: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Cells by method, the largest budget first."""
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for cell in document["cells"]:
        grouped.setdefault(cell["method"], []).append(cell)
    return {method: sorted(cells, key=lambda cell: -cell["keep"]) for method, cells in grouped.items()}
