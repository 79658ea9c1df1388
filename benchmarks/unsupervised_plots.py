"""The picture of docs/pretrained_decoder.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from foveate.draw.palette import INK, MUTED, Label, look, name_lines, style

SIGNALS = {"attention": ("Attention", "#0072b2"), "information": ("Information", "#d55e00"), "norm": ("Norm", "#cc79a7")}
KINDS = {"object": "objects", "reading": "reading"}
NORMS = {
    "first": ("first token", "#d55e00"),
    "other_text": ("other text before the picture", "#009e73"),
    "largest": ("largest visual token", "#0072b2"),
}
CHANCE = 25.0
BANDS = ("TokenCarve", "FastV")
"""Methods whose intervals are drawn; those of all would hide each other."""


def draw(data: Mapping[str, Any]) -> Figure:
    """Recall by layer for two kinds of question, norms by layer, and accuracy by the layer of the cut."""
    with look():
        figure = Figure(figsize=(10, 7.6), layout="constrained")
        panels = figure.subplots(2, 2)
        for axes, (kind, words) in zip(panels[0], KINDS.items(), strict=True):
            _recall(axes, data["recall"]["all"].get(kind), words)
        _norms(panels[1, 0], data)
        _layers(panels[1, 1], data)
    return figure


def _recall(axes: Axes, found: Mapping[str, Any] | None, words: str) -> None:
    title = f"{words}: relevant tokens in the top quarter, %"
    axes.set(title=title if found is None else f"{title} (n = {found['n']})", xlabel="layer", xlim=(-0.5, 38), ylim=(-2, 102))
    axes.axhline(CHANCE, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    labels = []
    for signal, (name, colour) in SIGNALS.items():
        rows = found[signal]["quarter"] if found is not None else []
        if not rows:
            continue
        x = range(len(rows))
        axes.plot(x, [100 * row["value"] for row in rows], color=colour)
        axes.fill_between(x, [100 * row["low"] for row in rows], [100 * row["high"] for row in rows], color=colour, alpha=0.12, linewidth=0)
        labels.append(Label(len(rows) - 1, 100 * rows[-1]["value"], name, colour))
    _layer_axis(axes, 29)
    name_lines(axes, [*labels, Label(29, CHANCE, "chance", MUTED)])


def _norms(axes: Axes, data: Mapping[str, Any]) -> None:
    rows = data["sinks"]
    axes.set(title="norm, over the median visual token's", xlabel="layer entered", yscale="log", xlim=(-0.5, 46))
    labels = []
    for key, (name, colour) in NORMS.items():
        values = [row[key] for row in rows]
        axes.plot(range(len(rows)), values, color=colour)
        labels.append(Label(len(rows) - 1, values[-1], name, colour))
    axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    _layer_axis(axes, 29)
    name_lines(axes, labels)


def _layers(axes: Axes, data: Mapping[str, Any]) -> None:
    axes.set(title=f"a quarter of the tokens from a layer on: right, % (n = {data['questions']})", xlabel="cut before layer")
    axes.set(xlim=(0, 27), ylim=(-2, 102))
    full, blind = (100 * data["answers"]["all"][name]["share"] for name in ("full", "blind"))
    axes.axhline(full, color=INK, linewidth=0.9)
    axes.axhline(blind, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
    labels = [Label(20, full, "all 144", INK), Label(20, blind, "no picture", MUTED)]
    for name, cells in data["sweep"].items():
        chosen = style(name)
        x = [int(layer) for layer in cells]
        axes.plot(x, [100 * cell["share"] for cell in cells.values()], color=chosen.colour, marker=chosen.mark)
        if name in BANDS:
            low, high = ([100 * cell[end] for cell in cells.values()] for end in ("low", "high"))
            axes.fill_between(x, low, high, color=chosen.colour, alpha=0.1, linewidth=0)
        labels.append(Label(x[-1], 100 * list(cells.values())[-1]["share"], chosen.name, chosen.colour))
    axes.set_xticks([int(layer) for layer in data["sweep"]["TokenCarve"]])
    axes.xaxis.set_minor_locator(NullLocator())
    name_lines(axes, labels)


def _layer_axis(axes: Axes, last: int) -> None:
    axes.set_xticks([*range(0, last - 1, 4), last])
