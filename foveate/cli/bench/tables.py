"""What `foveate bench` prints: lines about the run, and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from foveate.cli.console import cell

if TYPE_CHECKING:
    from foveate.measure.bench.comparison import RowPair
    from foveate.measure.bench.records import Group, Quartiles, Row, Run

__all__ = ["comparison_table", "headline", "host_overhead_table", "tables_of", "warnings"]

_NONE = "-"


def tables_of(group: Group, counts: Sequence[int]) -> list[Table]:
    """All tables of one batch size; some figures exist on a GPU, or with some options, alone."""
    tables = [_prefill_table(group), _generation_table(group, counts), _memory_table(group), _host_table(group)]
    return [*tables, _decoding_table(group, counts)] if any(row.decoding != "loop" for row in group.rows) else tables


def _prefill_table(group: Group) -> Table:
    """From pixels to the first token."""
    heads = ("prefill", "visual tokens", "vision tower", "prefill", "of full", "over the ideal", "method", "of full prefill", "first token")
    rows = []
    for row, found in _measured(group):
        cells = [
            _time(found, "tower"),
            _time(found, "prefill"),
            _share(found, "prefill_of_full"),
            _share(found, "over_ideal", sign=True),
            _time(found, "method"),
            _share(found, "method_of_full_prefill", digits=2),
            _time(found, "first_token"),
        ]
        rows.append([row.name, str(row.tokens), *(cells if found else [row.failed or "", *[""] * 6])])
    return _table(heads, rows)


def _generation_table(group: Group, counts: Sequence[int]) -> Table:
    """Whole generations of each length."""
    heads = ["generation"]
    for count in counts:
        heads += [f"{count} new: in all", "of full", "tokens/s"] if count > 1 else ["1 new: in all", "of full"]
        heads += ["per token", "of full"] if count > 1 else []
    rows = []
    for row, found in _measured(group):
        cells = []
        for count in counts:
            if count == 1:
                cells += [_time(found, "first_token"), _share(found, "first_token_of_full")]
                continue
            speed = found.get(f"tokens_per_second {count}")
            cells += [_time(found, f"end_to_end {count}"), _share(found, f"end_to_end_of_full {count}")]
            cells += [f"{speed.median:.1f}" if speed else _NONE]
            cells += [_time(found, f"decode {count}"), _share(found, f"decode_of_full {count}")]
        rows.append([row.name, *cells])
    return _table(heads, rows)


def _memory_table(group: Group) -> Table:
    """Key/value bytes, peak memory, and operations by stage."""
    heads = ("memory and work", "key/value cache", "saved", "peak memory added", "GFLOP: tower", "prefill", "of it method", "one new token")
    full = group.rows[0]
    rows = []
    for row in _looped(group):
        saved = f"{1 - row.cache_bytes / full.cache_bytes:.1%}" if row is not full and full.cache_bytes and row.cache_bytes else ""
        added = row.memory.get("added")
        work = [f"{row.flops[stage] / 1e9:.3g}" if stage in row.flops else "" for stage in ("tower", "prefill", "method", "decode")]
        rows.append([row.name, _bytes(row.cache_bytes or None), saved, _bytes(added), *work])
    return _table(heads, rows)


def _host_table(group: Group) -> Table:
    """Where the host's time goes, and whether the device waits for it: time on the clock beside the time in which the device computes."""
    heads = [
        "host and device",
        "prefill",
        "device busy",
        "of it",
        "host in hooks",
        "one new token",
        "device busy",
        "of it",
        "host in hooks",
    ]
    count = max((max(timing.ends) for row in group.rows for timing in row.timings), default=1)
    rows = []
    for row, found in _measured(group):
        cells = []
        for stage, name in (("prefill", "prefill"), ("decode", f"decode {count}")):
            clock, busy, hooks = found.get(name), row.busy.get(stage), row.hooks.get(stage)
            cells += [
                _time(found, name) or _NONE,
                _NONE if busy is None else _seconds(busy),
                _NONE if busy is None or clock is None else f"{busy / clock.median:.0%}",
                _NONE if hooks is None else _seconds(hooks),
            ]
        rows.append([row.name, *(cells if found else [row.failed or "", *[""] * 7])])
    return _table(heads, rows)


def _decoding_table(group: Group, counts: Sequence[int]) -> Table:
    """Tokens that `generate` makes with a growing cache, a static one, and a compiled step."""
    from foveate.measure.bench.records import figures

    heads, longer = ["generate", "prefill"], [count for count in counts if count > 1]
    for count in longer:
        heads += [f"per token over {count}", "of full", "of full alike"]
    rows = []
    for row in group.rows:
        if row.decoding != "loop":
            found = figures(group, row)
            cells = [_time(found, "prefill")]
            for count in longer:
                cells += [
                    _time(found, f"decode {count}"),
                    _share(found, f"decode_of_full {count}"),
                    _share(found, f"decode_of_same {count}"),
                ]
            rows.append([row.name, *(cells if found else ["skipped", *[""] * (len(cells) - 1)])])
    return _table(heads, rows)


def host_overhead_table(run: Run) -> Table:
    """What each method costs the host, where the time of a prefill is Python's."""
    heads = ("host overhead", "prefill", "full", "of full", "one new token", "full", "of full")
    rows = []
    for method, found in run.host_overhead.items():
        cells = []
        for own, plain, ratio in (("compressed", "plain", "ratio"), ("compressed_step", "plain_step", "step_ratio")):
            cells += [_seconds(found[own]), _seconds(found[plain]), f"{found[ratio]:.2f}x"]
        rows.append([method, *cells])
    return _table(heads, rows)


def headline(run: Run) -> list[str]:
    """What was measured, with which attention kernels, and on what."""
    model, machine = run.facts["model"], run.facts
    kernels = sorted({kernel for group in run.groups for row in group.rows for kernel in row.kernels})
    attention = ", ".join(f"{part} {name}" for part, name in model["attention"].items())
    if model["sdpa_backends"]:
        attention += f" (torch may use: {', '.join(model['sdpa_backends'])})"
    place = (
        machine["accelerator"] if model["device"] == "cuda" else f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    )
    return [
        f"{run.settings['model']}: {model['parameters'] / 1e6:.0f} M parameters, {model['dtype']}, on {place}",
        f"attention: {attention}; ran: {', '.join(kernels) or 'no fused kernel'}",
        f"torch {machine['torch']}, transformers {machine['transformers']}, foveate {machine['foveate']}",
    ]


def warnings(group: Group) -> list[str]:
    """Rows that failed, and rows that ran another kernel than the full model."""
    full = group.rows[0]
    found = [f"{row.name}: {row.failed}" for row in group.rows if row.failed]
    found += [
        f"{row.name} ran {', '.join(row.kernels) or 'no fused kernel'} and the full model {', '.join(full.kernels) or 'none'}; "
        f"no ratios are formed between different kernels"
        for row in _looped(group)
        if not row.failed and not full.failed and row.kernels != full.kernels
    ]
    return found


def comparison_table(pairs: Sequence[RowPair], names: tuple[str, str]) -> Table:
    """Two runs side by side: medians, and the second as a share of the first."""
    from foveate.measure.bench.records import figures

    heads = ["batch", "", "visual tokens", "what", *names, "second, of first"]
    rows = []
    for group, row, rival_group, rival in pairs:
        mine, theirs = figures(group, row), figures(rival_group, rival)
        for what in mine:
            if what in theirs and "_of_full" not in what and what != "over_ideal":
                shown = [_number(what, figures_of[what]) for figures_of in (mine, theirs)]
                ratio = theirs[what].median / mine[what].median if mine[what].median else float("nan")
                rows.append([str(group.batch), row.name, str(row.tokens), what.replace("_", " "), *shown, f"{ratio:.1%}"])
        rows.append(
            [str(group.batch), row.name, str(row.tokens), "key/value cache", _bytes(row.cache_bytes), _bytes(rival.cache_bytes), ""]
        )
    return _table(heads, rows)


def _measured(group: Group) -> list[tuple[Row, Mapping[str, Quartiles]]]:
    from foveate.measure.bench.records import figures

    return [(row, figures(group, row)) for row in _looped(group)]


def _looped(group: Group) -> list[Row]:
    """The rows whose tokens come from a plain loop, and not from `generate`."""
    return [row for row in group.rows if row.decoding == "loop"]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, head in enumerate(heads):
        table.add_column(cell(head), justify="right" if number else "left", style="" if number else "bold cyan", no_wrap=not number)
    for row in rows:
        table.add_row(*(cell(text) for text in row))
    return table


def _number(what: str, figure: Quartiles) -> str:
    return f"{figure.median:.1f}" if what.startswith("tokens_per_second") else _seconds(figure.median)


def _time(found: Mapping[str, Quartiles], name: str) -> str:
    """A median with half the distance of its quartiles."""
    figure = found.get(name)
    if figure is None:
        return ""
    spread = (figure.high - figure.low) / 2 / figure.median if figure.median else 0
    return f"{_seconds(figure.median)} ±{spread:.0%}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def _share(found: Mapping[str, Quartiles], name: str, *, digits: int = 1, sign: bool = False) -> str:
    """A median in percent with half the distance of its quartiles, in points."""
    figure = found.get(name)
    if figure is None:
        return ""
    return f"{figure.median * 100:{'+' if sign else ''}.{digits}f}% ±{(figure.high - figure.low) * 50:.{digits}f}"


def _bytes(count: int | None) -> str:
    if count is None:
        return _NONE
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
