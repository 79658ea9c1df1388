"""Plots of one run of `foveate bench`: where the time goes, and key/value bytes against visual tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveate.draw.palette import Label, look, name_lines, style
from foveate.files.writing import write_figure
from foveate.measure.bench.records import Group, Row, Run, figures
from foveate.printable import shortened

__all__ = ["PLOTS", "draw", "figure_of"]

PLOTS = (".png", ".svg", ".pdf")
"""Extensions that a plot can be written as."""

_STAGES = {"vision tower": "#56b4e9", "prefill": "#0072b2", "method": "#d55e00", "decode": "#999999"}
_TEXT = 8
_ANY_IDEAL = "ideal"
_LONGEST_ROW = 90


def draw(run: Run, path: Path) -> None:
    """Write one plot with a row of panels for each batch size, whole or not at all.

    Args:
        run: with at least one finished round.
        path: ends in one of `PLOTS`.

    Raises:
        ValueError: nothing has been measured yet.
        WriteError: the plot cannot be written.
    """
    figure = figure_of(run)
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        write_figure(path, figure)


def figure_of(run: Run) -> Figure:
    """The figure that `draw` writes.

    Raises:
        ValueError: nothing has been measured yet.
    """
    groups = [group for group in run.groups if group.rounds]
    if not groups:
        raise ValueError("nothing has been measured yet, so there is nothing to draw")
    tallest = max(len(group.rows) for group in groups)
    with look():
        figure = Figure(figsize=(13, len(groups) * (1.6 + 0.32 * tallest)), layout="constrained")
        panels = figure.subplots(len(groups), 2, squeeze=False, width_ratios=(3, 2))
        for group, (left, right) in zip(groups, panels, strict=True):
            _times(left, group)
            _caches(right, group)
    return figure


def _times(axes: Axes, group: Group) -> None:
    """Stacked bars, one per row; each stage is labelled in the first bar with enough room."""
    measured = [(row, _stages(group, row)) for row in group.rows if row.timings and row.failed is None and row.decoding == "loop"]
    longest = max(sum(stages.values()) for _, stages in measured)
    named: set[str] = set()
    for place, (_, stages) in enumerate(measured):
        start = 0.0
        for stage, value in stages.items():
            axes.barh(place, value, left=start, color=_STAGES[stage], height=0.7, edgecolor="white", linewidth=0.5)
            if stage not in named and value > 0.12 * longest:
                axes.text(
                    start + value / 2,
                    place,
                    stage,
                    ha="center",
                    va="center",
                    fontsize=_TEXT,
                    color="white" if stage == "prefill" else "black",
                )
                named.add(stage)
            start += value
        axes.text(start + 0.01 * longest, place, _seconds(start), va="center", fontsize=_TEXT)
    axes.set_yticks(range(len(measured)), [shortened(row.name, _LONGEST_ROW) for row, _ in measured])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.14 * longest)
    count = max(measured[0][0].timings[0].ends)
    axes.set_title(f"Batch {group.batch}: seconds for {count} new token{'s' if count > 1 else ''}, medians of {group.rounds} rounds")
    unnamed = [stage for stage in _STAGES if stage not in named and any(stages.get(stage) for _, stages in measured)]
    if unnamed:
        patches: list[Any] = [matplotlib.patches.Patch(color=_STAGES[stage], label=stage) for stage in unnamed]
        axes.legend(handles=patches, loc="lower right", frameon=False, fontsize=_TEXT)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


def _stages(group: Group, row: Row) -> dict[str, float]:
    found = {name: figure.median for name, figure in figures(group, row).items()}
    count = max(row.timings[0].ends)
    method = found.get("method", 0.0)
    stages = {"vision tower": found["tower"], "prefill": found["prefill"] - method, "method": method}
    if count > 1:
        stages["decode"] = found[f"end_to_end {count}"] - found["first_token"]
    return stages


def _caches(axes: Axes, group: Group) -> None:
    """One line per method and kind of ideal, with its name at its end; methods with equal caches share one."""
    full = group.rows[0]
    lines: dict[str, set[tuple[int, float]]] = {}
    for row in group.rows[1:]:
        if row.cache_bytes and row.decoding == "loop":
            lines.setdefault(_line(row), set()).add((row.tokens, row.cache_bytes / 2**20))
    same: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name, points in lines.items():
        same.setdefault(tuple(sorted(points)), []).append(name)
    labels = []
    for path, names in same.items():
        methods = [name for name in names if not name.startswith(_ANY_IDEAL)]
        ideals = [name for name in names if name.startswith(_ANY_IDEAL)]
        drawn = style(methods[0] if methods else _ANY_IDEAL)
        axes.plot(*zip(*path, strict=True), color=drawn.colour, marker=drawn.mark)
        short = ", ".join(dict.fromkeys(style(name).name for name in methods))
        labels.append(Label(*path[-1], "\n".join(filter(None, (short, *ideals))), drawn.colour))
    if full.cache_bytes:
        drawn = style(full.name)
        axes.plot(full.tokens, full.cache_bytes / 2**20, color=drawn.colour, marker=drawn.mark, markersize=9)
        axes.annotate(drawn.name, (full.tokens, full.cache_bytes / 2**20), (-8, -3), textcoords="offset points", ha="right", fontsize=_TEXT)
    axes.set(xlabel="kept visual tokens", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"Batch {group.batch}: key/value cache after the prefill, MiB")
    name_lines(axes, labels, _TEXT)


def _line(row: Row) -> str:
    """The row's name without its budget."""
    if row.kind == "ideal":
        return shortened(row.name, _LONGEST_ROW).replace(f" {row.tokens} ", " ")
    return re.sub(r"keep=[^,)]+(, )?", "", row.name).replace("()", "")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.0f} ms"
