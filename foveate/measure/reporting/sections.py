"""The sections of the page about each kind of results: figures and tables, made from what the commands wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from foveate.draw import information_loss
from foveate.draw.charts import Point, PointsByMethod, against_time, against_tokens, radar, svg
from foveate.measure.bench.plots import figure_of
from foveate.measure.bench.records import Group, Row, figures
from foveate.measure.evaluation.runs import BLIND, FULL
from foveate.measure.reporting.inputs import ResultFile

__all__ = ["PageFigure", "PageSection", "PageTable", "sections"]

_NONE = "-"
_OTHERS = (FULL.name, BLIND.name)


@dataclass(frozen=True)
class PageFigure:
    """An SVG element with a caption; a wide one scrolls sideways on a narrow screen."""

    svg: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table of text."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class PageSection:
    """One part of the page."""

    title: str
    text: Sequence[str]
    pictures: Sequence[PageFigure]
    tables: Sequence[PageTable]


def sections(inputs: Sequence[ResultFile]) -> Iterator[PageSection]:
    """The sections of the page: each result, and accuracy against time wherever one model was both evaluated and timed."""
    evaluated = [each for each in inputs if each.kind == "eval"]
    timed = [each for each in inputs if each.kind == "bench"]
    for number, each in enumerate(evaluated):
        yield _evaluation(each, f"eval{number}")
    for number, each in enumerate(evaluated):
        pictures = [picture for place, other in enumerate(timed) for picture in _both(each, other, f"time{number}-{place}")]
        if pictures:
            text = ["Each mark is one method at one budget; the wide gray line is the front of marks that no other beats in both."]
            yield PageSection(f"Accuracy against measured time: {each.name}", text, pictures, [])
    for number, each in enumerate(timed):
        yield _speed(each, f"bench{number}")
    for number, each in enumerate(inputs):
        if each.kind == "analyse":
            yield _analysis(each, f"analyse{number}")


def _evaluation(each: ResultFile, name: str) -> PageSection:
    results, tasks = each.data["results"], _tasks(each)
    pictures = []
    for number, (task, called) in enumerate(tasks.items()):
        scale, unit = _scale(results, task)
        lines = _lines(results, task, scale)
        full, blind = (results.get(setting, {}).get(task) for setting in _OTHERS)
        figure = against_tokens(lines, full and _point(full, scale), blind and blind["score"] * scale, called, unit)
        pictures.append(
            _picture(
                figure, f"{name}-task{number}", f"{called}: {unit} against kept visual tokens; bands and bars are 95\u00a0% intervals."
            )
        )
    if len(tasks) > 1:
        pictures.append(_means(each, name))
    if len(tasks) > 2:
        pictures += _radars(each, name)
    text = [
        "Tokens are those after the last cut. Of the image's: (score - no image) / (full - no image). Loyalty: answers that equal the "
        "full model's. Lost and won: questions that only the full model, or only the method, answers correctly."
    ]
    return PageSection(f"Quality: {each.name}", text, pictures, [_scores(each, task, called) for task, called in tasks.items()])


def _tasks(each: ResultFile) -> dict[str, str]:
    """Display names by lmms-eval's names, for the tasks with any result."""
    known = each.data.get("tasks", {})
    seen = dict.fromkeys(task for found in each.data["results"].values() for task in found)
    return {task: known.get(task, {}).get("name") or task for task in seen}


def _scale(results: Mapping[str, Any], task: str) -> tuple[float, str]:
    """The factor for scores and the resulting unit: shares become percent."""
    scores = [found[task]["score"] for found in results.values() if task in found]
    return (100.0, "score, %") if max(scores, default=0) <= 1 else (1.0, "score")


def _point(found: Mapping[str, Any], scale: float) -> Point:
    low, high = found["low"], found["high"]
    return Point(found["tokens_at_the_cut"], found["score"] * scale, low and low * scale, high and high * scale)


def _lines(results: Mapping[str, Any], task: str, scale: float) -> PointsByMethod:
    """The points of each method at all its budgets."""
    lines: dict[str, list[Point]] = {}
    for setting, found in results.items():
        if setting not in _OTHERS and task in found:
            lines.setdefault(_method(setting), []).append(_point(found[task], scale))
    return lines


def _method(setting: str) -> str:
    return setting.rpartition("-")[0] or setting


def _means(each: ResultFile, name: str) -> PageFigure:
    lines: dict[str, list[Point]] = {}
    for setting, means in each.data["mean"].items():
        if setting not in _OTHERS and means["of_full"] is not None:
            lines.setdefault(_method(setting), []).append(Point(means["tokens_at_the_cut"], 100 * means["of_full"]))
    full = each.data["mean"].get(FULL.name)
    whole = Point(full["tokens_at_the_cut"], 100.0) if full else None
    figure = against_tokens(lines, whole, None, "mean over tasks", "of the full model, %")
    return _picture(figure, f"{name}-mean", "Mean over tasks of each score's share of the full model's, against kept visual tokens.")


def _radars(each: ResultFile, name: str) -> Iterator[PageFigure]:
    results, tasks = each.data["results"], _tasks(each)
    budgets: dict[str, dict[str, list[float | None]]] = {}
    for setting, found in results.items():
        if setting not in _OTHERS:
            shares = [found.get(task, {}).get("of_full") for task in tasks]
            if any(share is not None for share in shares):
                budgets.setdefault(setting.rpartition("-")[2], {})[_method(setting)] = shares
    for number, (keep, values) in enumerate(budgets.items()):
        figure = radar(values, list(tasks.values()), f"{keep} visual tokens")
        yield _picture(figure, f"{name}-radar{number}", f"Each task's score at keep={keep}, as a share of the full model's (black circle).")


def _scores(each: ResultFile, task: str, called: str) -> PageTable:
    heads = ("", "score", "95 %", "of full", "of the image's", "loyalty", "lost / won", "tokens", "mean over layers", "method")
    scale, _ = _scale(each.data["results"], task)
    rows = []
    for setting, tasks in each.data["results"].items():
        if task in tasks:
            found = tasks[task]
            interval = _NONE if found["low"] is None else f"{found['low'] * scale:.1f} to {found['high'] * scale:.1f}"
            changed = _NONE if found["lost"] is None else f"{found['lost']} / {found['won']}"
            shares = [_percent(found[share]) for share in ("of_full", "of_image", "loyalty")]
            tokens = [f"{found['tokens_at_the_cut']:.0f}", f"{found['mean_tokens_over_layers']:.0f}"]
            spent = f"{found['method_seconds'] * 1e3:.1f} ms" if found["method_seconds"] else _NONE
            rows.append([setting, f"{found['score'] * scale:.1f}", interval, *shares, changed, *tokens, spent])
    questions = next(tasks[task]["questions"] for tasks in each.data["results"].values() if task in tasks)
    return PageTable(f"{called}: {questions} questions", heads, rows)


def _both(each: ResultFile, other: ResultFile, name: str) -> Iterator[PageFigure]:
    """Accuracy of one against time of the other, if they are of one model and share methods with the same options."""
    assert other.run is not None
    if each.model.get("fingerprint") != other.model.get("fingerprint"):
        return
    for place, group in enumerate(other.run.groups):
        times = {row.name: 1e3 * found["prefill"].median for row in group.rows if "prefill" in (found := figures(group, row))}
        for number, (task, called) in enumerate(_tasks(each).items()):
            scale, unit = _scale(each.data["results"], task)
            full = each.data["results"].get(FULL.name, {}).get(task)
            lines: dict[str, list[Point]] = {}
            for setting, tasks in each.data["results"].items():
                found = tasks.get(task)
                if found and found["method"] in times:
                    point = _point(found, scale)
                    lines.setdefault(_method(setting), []).append(Point(times[found["method"]], point.y, point.low, point.high))
            if lines and full and FULL.name in times:
                whole = Point(times[FULL.name], full["score"] * scale)
                figure = against_time(lines, whole, f"{called}, batch {group.batch}", unit)
                caption = (
                    f"{called} against the time of a prefill, median of {group.rounds} rounds at batch {group.batch}, from {other.name}."
                )
                yield _picture(figure, f"{name}-task{number}-group{place}", caption)


def _speed(each: ResultFile, name: str) -> PageSection:
    run = each.run
    assert run is not None
    measured = [group for group in run.groups if group.rounds]
    pictures = []
    if measured:
        caption = "Left: where the time of a whole generation goes. Right: key/value bytes against kept visual tokens."
        pictures.append(PageFigure(svg(figure_of(run), name, "none"), caption, wide=True))
    text_lines = [
        "Medians over interleaved rounds, quartiles in brackets. The ideal is the same decoder fed a sequence that short, with no "
        "method at all."
    ]
    return PageSection(f"Speed and memory: {each.name}", text_lines, pictures, [_times(group) for group in measured])


def _times(group: Group) -> PageTable:
    heads = ("", "tokens", "vision tower", "prefill", "of full", "over the ideal", "method, of full prefill", "first token", "key/value")
    return PageTable(f"Batch {group.batch}, {group.prompt_tokens} prompt tokens", heads, [_time_row(group, row) for row in group.rows])


def _time_row(group: Group, row: Row) -> list[str]:
    found = figures(group, row)
    if not found:
        return [row.name, str(row.tokens), row.failed or _NONE, *[""] * 6]

    def share(name: str, form: str) -> str:
        figure = found.get(name)
        return _NONE if figure is None else f"{figure.median:{form}} ({figure.low:{form}} to {figure.high:{form}})"

    def milliseconds(name: str) -> str:
        return f"{found[name].median * 1e3:.1f} ms"

    shares = [share("prefill_of_full", ".1%"), share("over_ideal", "+.1%"), share("method_of_full_prefill", ".2%")]
    cache = f"{row.cache_bytes / 2**20:.1f} MiB"
    return [row.name, str(row.tokens), milliseconds("tower"), milliseconds("prefill"), *shares, milliseconds("first_token"), cache]


def _analysis(each: ResultFile, name: str) -> PageSection:
    data = each.data
    pictures = [
        _picture(figure, f"{name}-{number}", "Effective rank of the kept tokens against right answers, one mark for each budget.")
        for number, figure in enumerate(information_loss.panels(data))
    ]
    scopes = ("cells", "equal_budget", "equal_question", "equal_draws")
    heads = ("effective rank of", "all cells", "equal budgets", "same question", "chance alone")
    rows = []
    for entry in data["correlations"]:
        if entry["measure"] == "effective_rank":
            found = [_estimate(entry[scope]["spearman"]) if scope in entry else _NONE for scope in scopes]
            rows.append([f"{entry['source'].replace('_', ' ')}, layer {entry['layer']}", *found])
    text = [
        f"{data['questions']} questions about {data['scenes']} held-out scenes; intervals of 95 % over resampled scenes. Accuracy and "
        "information both fall with the number of tokens, so only equal budgets show whether keeping more information helps: between "
        "methods, between methods on the same question, and between random choices for the same question, which differ by chance alone."
    ]
    table = PageTable("Spearman's correlation of effective rank and right answers", heads, rows)
    return PageSection(f"Information and accuracy: {each.name}", text, pictures, [table])


def _estimate(found: Mapping[str, float | None]) -> str:
    return _NONE if found["value"] is None else f"{found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _picture(figure: Figure, name: str, caption: str) -> PageFigure:
    return PageFigure(svg(figure, name), caption)
