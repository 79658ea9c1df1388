"""Tables and a picture of every method at equal final tokens, from benchmarks/results/every_method.json."""

from __future__ import annotations

from typing import Any

from common import interval, load, percent
from every_method import NAME
from matplotlib.figure import Figure

from foveate.draw.charts import Point, front_of
from foveate.draw.palette import INK, MUTED, Label, look, name_lines, style
from foveate.measure.statistics import mcnemar
from foveate.methods import find_method, parse_method
from foveate.methods.traits import traits_of

CHANCE = 0.05
SHOWN = ("object", "reading", "position")


def called(name: str) -> str:
    """A method's class name, with the options that were set."""
    kind, _, options = name.partition(":")
    return find_method(kind).__name__ + (f", {options.replace('=true', '')}" if options else "")


def acts(name: str) -> str:
    """Where it acts, in words for the table."""
    own = traits_of(find_method(name.partition(":")[0]))
    return f"{len(own.stages)} layers" if own.stages else f"layer {parse_method(name, keep=1).layer}"


def lost_and_won(best: str, other: str) -> tuple[int, int]:
    """Questions that only the best, and only the other, answers right."""
    pairs = list(zip(best, other, strict=True))
    return pairs.count(("1", "0")), pairs.count(("0", "1"))


def best_at(data: dict[str, Any], keep: str) -> str:
    """The name of the method with most right answers at a budget; the fewest equivalent tokens decide among equals."""
    cells = {name: own[keep] for name, own in data["methods"].items()}
    return min(cells, key=lambda name: (-cells[name]["scores"]["overall"]["share"], cells[name]["equivalent"]))


def every_method() -> str:
    """Right answers at every budget; bold where the best one at this budget is not ahead by more than chance."""
    data = load(NAME)
    keeps = [str(keep) for keep in sorted(data["budgets"], reverse=True)]
    best = {keep: data["methods"][best_at(data, keep)][keep] for keep in keeps}
    lines = ["| | acts before | " + " | ".join(f"{keep} tokens" for keep in keeps) + " |", "|---" * (len(keeps) + 2) + "|"]
    middle = keeps[len(keeps) // 2 - 1] if "64" not in keeps else "64"
    for name, own in sorted(data["methods"].items(), key=lambda pair: -pair[1][middle]["scores"]["overall"]["share"]):
        cells = []
        for keep in keeps:
            text = interval(own[keep]["scores"]["overall"]).replace(" %", "", 1)
            alike = mcnemar(*lost_and_won(best[keep]["right"], own[keep]["right"])) >= CHANCE
            cells.append(f"**{text}**" if alike else text)
        lines.append(f"| `{called(name)}` | {acts(name)} | " + " | ".join(cells) + " |")
    full, blind = (data[which]["scores"]["overall"] for which in ("full", "no_image"))
    leading = ", ".join(f"{keep}: `{called(best_at(data, keep))}` {percent(best[keep]['of_full'], 1)}" for keep in keeps)
    note = (
        f"Right answers in per cent (95 % intervals) of {data['questions']} held-out questions, {data['each']} of each kind; the first "
        f"embedded model. All 576 tokens: {interval(full)}; no picture: {interval(blind)}. Best, of the "
        f"accuracy with all tokens: {leading}. **Bold**: the best method at this budget is "
        f"not ahead by more than chance (exact McNemar test on the same questions, p >= {CHANCE}). "
        f"`python benchmarks/every_method.py --rounds {data['each'] // 5} --budgets {','.join(keeps)}`, {data['environment']['date']}."
    )
    return "\n".join([*lines, "", note])


def every_method_details() -> str:
    """For each budget what remains of the picture, of the full model's own answers and of each kind of question, and what it costs."""
    data = load(NAME)
    full = data["full"]["scores"]
    parts = []
    for keep in (str(keep) for keep in sorted(data["budgets"], reverse=True)):
        head = ("", "right", "of what the picture adds", "answers as the full model", "equivalent tokens", *SHOWN)
        lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name, own in sorted(data["methods"].items(), key=lambda pair: -pair[1][keep]["scores"]["overall"]["share"]):
            cell = own[keep]
            kinds = [percent(cell["scores"][kind]["share"]) for kind in SHOWN]
            shown = (percent(cell["scores"]["overall"]["share"], 1), percent(cell["of_image"]), percent(cell["loyalty"]["share"], 1))
            lines.append("| " + " | ".join((f"`{called(name)}`", *shown, f"{cell['equivalent']:.0f}", *kinds)) + " |")
        row = (
            "*all 576 tokens*",
            percent(full["overall"]["share"], 1),
            "100 %",
            "100.0 %",
            "576",
            *(percent(full[kind]["share"]) for kind in SHOWN),
        )
        lines.append("| " + " | ".join(row) + " |")
        parts.append(f"**{keep} of 576 tokens**\n\n" + "\n".join(lines))
    counts = ", ".join(f"{full[kind]['n']} {kind}" for kind in SHOWN)
    return "\n\n".join(parts) + f"\n\n{data['questions']} questions, of these {counts}; the rest are of two hops or descriptions."


def picture() -> Figure:
    """Right answers against equivalent tokens, a panel for each budget, with the Pareto front."""
    data = load(NAME)
    keeps = [str(keep) for keep in sorted(data["budgets"], reverse=True)]
    full, blind = (100 * data[which]["scores"]["overall"]["share"] for which in ("full", "no_image"))
    with look():
        figure = Figure(figsize=(11, 5.2 * ((len(keeps) + 1) // 2)), layout="constrained")
        panels = figure.subplots((len(keeps) + 1) // 2, 2, squeeze=False).flat
        for keep, axes in zip(keeps, panels, strict=False):  # in this order, so that no panel is taken and left
            points = {
                name: Point(own[keep]["equivalent"], 100 * own[keep]["scores"]["overall"]["share"]) for name, own in data["methods"].items()
            }
            front = front_of(list(points.values()))
            most = max(point.x for point in points.values())
            axes.step(
                [point.x for point in front] + [most],
                [point.y for point in front] + [front[-1].y],
                where="post",
                color=MUTED,
                alpha=0.3,
                linewidth=5,
                zorder=0,
            )
            axes.axhline(full, color=INK, linewidth=0.9)
            axes.axhline(blind, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
            labels = []
            for name, point in points.items():
                chosen = style(called(name))
                axes.plot(point.x, point.y, color=chosen.colour, marker=chosen.mark, linestyle="none")
                labels.append(Label(point.x, point.y, called(name), chosen.colour))
            low = min(point.x for point in points.values())
            axes.set(title=f"{keep} of 576 tokens remain", xlim=(low - 0.06 * (most - low), most + 0.4 * (most - low)), ylim=(0, 100))
            axes.set(xlabel="visual tokens, mean over layers", ylabel="answers right, %")
            name_lines(axes, labels, 7.5)
        for axes in list(panels):
            axes.axis("off")
    return figure
