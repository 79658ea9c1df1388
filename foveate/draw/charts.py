"""Charts of accuracy: against tokens, against measured time, and over tasks. Narrow enough to read on a phone."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from foveate.draw.palette import INK, LONGEST_NAME, MUTED, Label, look, name_lines, style
from foveate.printable import shortened

__all__ = ["PointsByMethod", "Point", "against_time", "against_tokens", "front_of", "radar", "svg", "tokens_panel"]

_SIZE = (3.9, 3.2)
_LABELLED = 1.35
"""The labels of adjacent budgets need this ratio between them on a logarithmic axis."""


@dataclass(frozen=True)
class Point:
    """One measurement: its cost, its result, and the result's 95 % interval, if there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


PointsByMethod = Mapping[str, Sequence[Point]]
"""Measurements by method."""


def against_tokens(lines: PointsByMethod, full: Point | None, blind: float | None, title: str, unit: str) -> Figure:
    """Scores against the number of visual tokens that stay, with the most on the left.

    Args:
        lines: x is a number of tokens.
        full: the full model.
        blind: the score without the picture.
        title: what was asked.
        unit: the unit of the scores.
    """
    with look():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.set_ylabel(shortened(unit, LONGEST_NAME))
        tokens_panel(axes, lines, full, blind, title)
    return figure


def tokens_panel(axes: Axes, lines: PointsByMethod, full: Point | None, blind: float | None, title: str) -> None:
    """Draw the content of `against_tokens` into existing axes."""
    lines = {name: [_on_scale(point) for point in points] for name, points in lines.items()}
    full = full and _on_scale(full)
    ordered = {name: sorted(points, key=lambda point: -point.x) for name, points in lines.items()}
    budgets = sorted({point.x for points in ordered.values() for point in points} | ({full.x} if full else set()), reverse=True) or [1.0]
    axes.set(
        title=shortened(title, LONGEST_NAME), xscale="log", xlabel="visual tokens that stay", xlim=(budgets[0] * 1.1, budgets[-1] / 1.15)
    )
    axes.set_xticks(*_ticks(budgets))
    axes.xaxis.set_minor_locator(NullLocator())
    labels = []
    if full is not None:
        axes.axhline(full.y, color=INK, linewidth=0.9)
        labels.append(Label(budgets[-1], full.y, f"all {full.x:.0f}", INK))
    if blind is not None:
        axes.axhline(blind, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        labels.append(Label(budgets[-1], blind, "no picture", MUTED))
    for name, points in ordered.items():
        chosen = style(name)
        x = [point.x for point in points]
        axes.plot(x, [point.y for point in points], color=chosen.colour, marker=chosen.mark)
        _band(axes, points, chosen.colour)
        labels.append(Label(x[-1], points[-1].y, chosen.name, chosen.colour))
    name_lines(axes, labels)


def against_time(lines: PointsByMethod, full: Point, title: str, unit: str) -> Figure:
    """Scores against measured time, with the Pareto front.

    Args:
        lines: x is a time in milliseconds.
        full: the full model.
        title: what was measured.
        unit: the unit of the scores.
    """
    with look():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        front = front_of([full, *(point for points in lines.values() for point in points)])
        axes.step([point.x for point in front], [point.y for point in front], where="post", color=MUTED, alpha=0.3, linewidth=5, zorder=0)
        labels = [Label(full.x, full.y, "full model", INK)]
        axes.plot(full.x, full.y, color=INK, marker="*", markersize=10, linestyle="none")
        for name, points in lines.items():
            chosen = style(name)
            ordered = sorted(points, key=lambda point: point.x)
            axes.plot(
                [point.x for point in ordered], [point.y for point in ordered], color=chosen.colour, marker=chosen.mark, linewidth=0.9
            )
            _bars(axes, ordered, chosen.colour)
            labels.append(Label(ordered[-1].x, ordered[-1].y, chosen.name, chosen.colour))
        axes.set(title=shortened(title, LONGEST_NAME), xlabel="prefill, ms", ylabel=shortened(unit, LONGEST_NAME))
        axes.margins(x=0.1, y=0.12)
        name_lines(axes, labels)
    return figure


def radar(values: Mapping[str, Sequence[float | None]], spokes: Sequence[str], title: str) -> Figure:
    """Each method's scores over tasks, as shares of the full model's score, which is the circle at 100 %.

    Args:
        values: by method, one share per spoke; `None` if nothing was measured, which leaves a gap.
        spokes: names of at least three tasks.
        title: the budget.

    Raises:
        ValueError: fewer than three spokes.
    """
    if len(spokes) < 3:
        raise ValueError(f"a radar needs at least 3 spokes, not {len(spokes)}")
    angles = [2 * math.pi * place / len(spokes) for place in range(len(spokes))]
    measured = [100 * value for shares in values.values() for value in shares if value is not None]
    with look():
        figure = Figure(figsize=(3.9, 3.9), layout="constrained")
        axes = figure.add_subplot(projection="polar")
        axes.set_theta_offset(math.pi / 2)  # type: ignore[attr-defined]
        axes.set_theta_direction(-1)  # type: ignore[attr-defined]
        axes.set_xticks(angles, [_wrapped(shortened(spoke, LONGEST_NAME)) for spoke in spokes])
        for angle, text in zip(angles, axes.get_xticklabels(), strict=True):
            side = round(math.sin(angle), 6)
            text.set_horizontalalignment("center" if side == 0 else "left" if side > 0 else "right")
        low = 10 * math.floor(min([*measured, 90.0]) / 10)
        high = max([*measured, 100.0])
        axes.set_ylim(max(0, low - 5), high + 2)
        rings = [ring for ring in range(low, math.ceil(high) + 1, max(10, 10 * round((high - low) / 40))) if ring != 100]
        axes.set_yticks([*rings, 100], [*(f"{ring}" for ring in rings), "100 %"], color=MUTED, fontsize=7.5)
        turn = [*angles, 2 * math.pi]
        axes.plot([2 * math.pi * step / 180 for step in range(181)], [100] * 181, color=INK, linewidth=0.9)
        shapes = []
        for name, shares in values.items():
            chosen = style(name)
            closed = [math.nan if share is None else 100 * share for share in (*shares, shares[0])]
            shapes += axes.plot(turn, closed, color=chosen.colour, marker=chosen.mark)
        axes.spines["polar"].set_visible(False)
        axes.set_title(shortened(title, LONGEST_NAME), pad=14)
        # The lines of a radar cross everywhere, so names at their ends would not help. The names are passed explicitly, because
        # matplotlib omits line labels that begin with an underscore.
        figure.legend(
            shapes,
            [style(name).name for name in values],
            loc="outside lower center",
            ncols=min(4, len(values)),
            frameon=False,
            fontsize=8.5,
        )
    return figure


def svg(figure: Figure, name: str, letters: Literal["path", "none"] = "path") -> str:
    """A figure as an SVG element for a page: no XML header, and identifiers that differ from those of figures with other names.

    Args:
        figure: what to draw.
        name: any text.
        letters: "path" draws letters, "none" leaves them to the reader's fonts.
    """
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": letters}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    found = text.getvalue()
    found = found[found.index("<svg") :]
    # Within a figure, letters and marks are shared by identifiers, and other figures use the same ones.
    own = _identifier(name)
    found = re.sub(r'(\bid="|href="#|url\(#)', lambda place: f"{place[1]}{own}-", found)
    return re.sub(r"<metadata>.*?</metadata>", "", found, flags=re.DOTALL)


def _identifier(name: str) -> str:
    """Only letters, digits and hyphens, different for different names."""
    return (
        f"{re.sub('[^A-Za-z0-9]+', '-', f'figure-{name[:40]}')}-{blake2b(name.encode(errors='surrogatepass'), digest_size=6).hexdigest()}"
    )


def _on_scale(point: Point) -> Point:
    """The value as drawn on a logarithmic axis, which has no place for less than one token."""
    return replace(point, x=max(point.x, 1.0))


def _ticks(budgets: Sequence[float]) -> tuple[list[float], list[str]]:
    """All budgets as ticks, with numbers if there is room for them."""
    shown: list[float] = []
    for budget in budgets:
        if not shown or shown[-1] / budget >= _LABELLED:
            shown.append(budget)
    return list(budgets), [f"{budget:.0f}" if budget in shown else "" for budget in budgets]


def _band(axes: Axes, points: Sequence[Point], colour: str) -> None:
    known = [(point.x, point.low, point.high) for point in points if point.low is not None and point.high is not None]
    if len(known) > 1:
        x, low, high = zip(*known, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
    else:  # a single budget spans no width
        _bars(axes, points, colour)


def _bars(axes: Axes, points: Sequence[Point], colour: str) -> None:
    for point in points:
        if point.low is not None and point.high is not None:
            axes.plot([point.x, point.x], [point.low, point.high], color=colour, linewidth=0.8, alpha=0.5)


def front_of(points: Sequence[Point]) -> list[Point]:
    """The points that no other point beats in both time and score, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if not front or point.y > front[-1].y:
            front.append(point)
    return front


def _wrapped(text: str) -> str:
    """A spoke's name, on two lines if it is long."""
    words = text.split()
    if len(text) <= 12 or len(words) < 2:
        return text
    half = min(range(1, len(words)), key=lambda place: abs(len(" ".join(words[:place])) - len(text) / 2))
    return " ".join(words[:half]) + "\n" + " ".join(words[half:])
