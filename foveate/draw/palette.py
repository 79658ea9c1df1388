"""The look of every chart: one colour and mark per method, quiet axes, and names next to the lines instead of legends.

The colours are those of Okabe and Ito, which colour-blind people can distinguish; marks distinguish methods without any colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from foveate.printable import shortened

__all__ = ["INK", "LONGEST_NAME", "MUTED", "PAPER", "Label", "Style", "look", "name_lines", "style"]

INK, MUTED, PAPER = "#1c1c22", "#76767f", "#ffffff"
"""Text and axes, reference lines, and background."""
LONGEST_NAME = 60
"""Most characters of a name in a chart; a longer name loses its middle."""


@dataclass(frozen=True)
class Style:
    """How a method is drawn, and its label."""

    name: str
    colour: str
    mark: str


_STYLES = {
    "tokencarve": Style("TokenCarve", "#d55e00", "o"),
    "fastv": Style("FastV", "#0072b2", "s"),
    "pool": Style("Pool", "#009e73", "^"),
    "random": Style("Random", "#8c8c94", "X"),
    "norm": Style("Norm", "#cc79a7", "D"),
    "explainer": Style("Explainer", "#e69f00", "P"),
    "firstlayerattention": Style("First-layer attention", "#56b4e9", "v"),
    "oracle": Style("Oracle", "#6a51a3", "*"),
    "divprune": Style("DivPrune", "#117733", "p"),
    "towerattention": Style("Tower attention", "#882255", "h"),
    "scope": Style("Scope", "#999933", "8"),
    "cdpruner": Style("CDPruner", "#117777", ">"),
    "mmtok": Style("MMTok", "#4477aa", "<"),
    "evs": Style("EVS", "#ee8866", "1"),
    "prumerge": Style("PruMerge", "#aa7744", "H"),
    "tome": Style("ToMe", "#5599cc", "2"),
    "vidcom2": Style("VidCom2", "#bb5566", "_"),
    "visionzip": Style("VisionZip", "#cc6677", "$Z$"),
    "dart": Style("DART", "#aa4499", "x"),
    "entropyprune": Style("EntropyPrune", "#b8860b", "+"),
    "pyramiddrop": Style("PyramidDrop", "#44aa99", "3"),
    "sparsevlm": Style("SparseVLM", "#332288", "4"),
    "v2drop": Style("V2Drop", "#661100", "|"),
    "full": Style("Full model", INK, "*"),
    "ideal": Style("Ideal", MUTED, "d"),
}
_SPARE = (("#a6761d", "1"), ("#1b7837", "<"), ("#b2182b", ">"), ("#5e4fa2", "2"), ("#525252", "H"))


def style(name: str) -> Style:
    """The style of a method, by its name in any spelling; an unknown method has a colour that depends only on its name."""
    word = "".join(sign for sign in name.partition("(")[0].lower() if sign.isalnum())
    if word in _STYLES:
        return _STYLES[word]
    colour, mark = _SPARE[crc32(word.encode()) % len(_SPARE)]
    return Style(shortened(name, LONGEST_NAME), colour, mark)


@contextmanager
def look() -> Iterator[None]:
    """Charts made in this context have quiet axes, and text that is legible on a phone."""
    settings: Any = {
        "axes.edgecolor": MUTED,
        "axes.grid": True,
        "axes.labelcolor": INK,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "figure.facecolor": PAPER,
        "font.size": 9,
        "grid.alpha": 0.2,
        "grid.color": MUTED,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "text.color": INK,
        "text.parse_math": False,  # a name with dollar signs is not mathematics
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with mpl.rc_context(settings):
        yield


class Label(NamedTuple):
    """A name next to a point of a chart, in the chart's own units."""

    x: float
    y: float
    text: str
    colour: str


def name_lines(axes: Axes, labels: Sequence[Label], size: float = 8.5, *, before: bool = False) -> None:
    """Write each name to the right of its point, or to the left with `before`.

    Names that would overlap are moved apart, with a thin line to the point. Call it last, when the axes have their final limits and
    position.
    """
    axes.figure.canvas.draw()
    scale = axes.figure.dpi / 72
    room = 1.25 * size * scale
    at = {label: axes.transData.transform((label.x, label.y)) for label in labels}
    ordered = sorted(labels, key=lambda label: at[label][1])
    heights = _apart([float(at[label][1]) for label in ordered], room)
    for label, height in zip(ordered, heights, strict=True):
        moved = height - float(at[label][1])
        arrow = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=(-9 if before else 9, moved / scale),
            textcoords="offset points",
            color=label.colour,
            fontsize=size,
            ha="right" if before else "left",
            va="center",
            annotation_clip=False,
            arrowprops=arrow if abs(moved) > room / 3 else None,
            path_effects=[withStroke(linewidth=2.5, foreground=PAPER)],
            zorder=1.9,  # below lines and marks, which a name must not hide
        )


def _apart(heights: Sequence[float], room: float) -> list[float]:
    """Ascending heights, moved as little as necessary to be at least `room` apart: groups that touch share their middle."""
    groups: list[tuple[float, int]] = []  # middle and size
    for height in heights:
        group = (height, 1)
        while groups and groups[-1][0] + room * groups[-1][1] / 2 > group[0] - room * group[1] / 2:
            middle, size = groups.pop()
            group = ((middle * size + group[0] * group[1]) / (size + group[1]), size + group[1])
        groups.append(group)
    return [middle + room * (place - (size - 1) / 2) for middle, size in groups for place in range(size)]
