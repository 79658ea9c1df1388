"""The tables that `foveate eval` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

from foveate.cli.console import cell

if TYPE_CHECKING:
    from foveate.measure.evaluation.comparison import Comparison

__all__ = ["comparison_table", "evaluation_table"]

_NONE = "-"
_COLUMNS = ("task", "score", "95 % interval", "of full", "of the image's", "loyalty", "lost/won", "at the cut", "over layers", "method")
_MEAN = "mean"


def evaluation_table(data: Mapping[str, Any]) -> Table:
    """Every setting and task of a run, and the means over tasks where there are several."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", style="bold cyan", no_wrap=True)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for setting, tasks in data["results"].items():
        label = setting
        for task, figures in tasks.items():
            table.add_row(cell(label), *map(cell, _cells(task, figures)))
            label = ""
        if len(tasks) > 1:
            table.add_row("", *(cell(text, "bold") for text in _cells(_MEAN, data["mean"][setting])))
    return table


def _cells(task: str, figures: Mapping[str, Any]) -> list[str]:
    low, high, lost = figures.get("low"), figures.get("high"), figures.get("lost")
    return [
        task,
        _number(figures.get("score")),
        _NONE if low is None or high is None else f"{_number(low)} to {_number(high)}",
        _percent(figures["of_full"]),
        _percent(figures["of_image"]),
        _percent(figures["loyalty"]),
        _NONE if lost is None else f"{lost}/{figures['won']}",
        f"{figures['tokens_at_the_cut']:.0f}",
        f"{figures['mean_tokens_over_layers']:.0f}",
        f"{figures['method_seconds'] * 1e3:.1f} ms" if figures["method_seconds"] else _NONE,
    ]


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """What came of comparing two results."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(("first", "second", "task", "questions", "difference", "95 % interval", "p", "lost/won", "McNemar p")):
        table.add_column(column, style="bold cyan" if number < 2 else "", justify="left" if number < 3 else "right", no_wrap=True)
    for each in comparisons:
        table.add_row(
            cell(each.first),
            cell(each.second),
            cell(each.task),
            str(each.questions),
            f"{each.difference:+.4g}",
            f"{each.low:+.4g} to {each.high:+.4g}",
            _chance(each.bootstrap_p),
            f"{each.lost}/{each.won}",
            _NONE if each.mcnemar_p is None else _chance(each.mcnemar_p),
        )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if abs(value) > 1 else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{value * 100:.1f} %"


def _chance(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
