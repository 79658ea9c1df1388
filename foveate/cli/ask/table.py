"""The table that `foveate ask` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from foveate.chat.timed_answers import TimedAnswer, TimedAnswers

__all__ = ["results_table"]

_NONE = "-"


def results_table(method: str, outcome: TimedAnswers) -> Table:
    """What each way of answering took; with both there is a column for the difference.

    Args:
        method: the method's name, if there is one.
        outcome: the measured answers.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    compressed, full = outcome.compressed, outcome.full
    ways = [(name, answer) for name, answer in ((method, compressed), ("full model", full)) if answer is not None]
    table.add_column("")
    for name, _ in ways:
        table.add_column(name, justify="right", style="bold" if name == method else "")
    if compressed and full:
        table.add_column("")
    before = outcome.cache_bytes_before if full is None else None
    rows = [_row(answer, outcome, before) for _, answer in ways]
    for label in rows[0]:
        cells = [row[label] for row in rows]
        if all(cell == _NONE for cell in cells):
            continue
        if compressed and full:
            cells.append(_difference(label, compressed, full))
        table.add_row(label, *(Text(cell, style="yellow" if cell.endswith("slower") else "") for cell in cells))
    return table


def _row(answer: TimedAnswer, outcome: TimedAnswers, cache_before: int | None) -> dict[str, str]:
    """The cells of one way by label; with `cache_before`, what there was before stands beside what remains."""
    return {
        "visual tokens": str(answer.visual_tokens) + (f" of {outcome.visual_tokens}" if cache_before else ""),
        "  newlines, which stay": str(outcome.newlines) if outcome.newlines else _NONE,
        "key/value cache": _bytes(answer.cache_bytes) + (f" of {_bytes(cache_before)}" if cache_before else ""),
        "vision tower": _time(answer.vision_seconds),
        "prefill": _time(answer.prefill_seconds),
        "  the method in it": _time(answer.method_seconds or None),
        "first token after": _time(answer.first_token_seconds),
        "decode, per token": _time(answer.decode_seconds_per_token),
    }


def _difference(label: str, compressed: TimedAnswer, full: TimedAnswer) -> str:
    if label == "visual tokens":
        return f"{compressed.visual_tokens / full.visual_tokens:.1%} kept" if full.visual_tokens else ""
    if label == "key/value cache":
        return f"{1 - compressed.cache_bytes / full.cache_bytes:.1%} smaller" if compressed.cache_bytes and full.cache_bytes else ""
    if label == "  the method in it":
        return f"{compressed.method_seconds / full.prefill_seconds:.1%} of the full prefill"
    times = {
        "prefill": (compressed.prefill_seconds, full.prefill_seconds),
        "first token after": (compressed.first_token_seconds, full.first_token_seconds),
        "decode, per token": (compressed.decode_seconds_per_token, full.decode_seconds_per_token),
    }
    ours, theirs = times.get(label, (None, None))
    if not ours or not theirs:
        return ""
    return f"{theirs / ours:.2f}x faster" if ours <= theirs else f"{ours / theirs:.2f}x slower"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.1f} ms"


def _bytes(count: int | None) -> str:
    if count is None:
        return _NONE
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"
