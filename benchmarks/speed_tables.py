"""Tables of what `foveate bench` measured, for README.md and docs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from common import RESULTS, label, percent

from foveate.measure.bench.records import Group, Quartiles, Row, Run, figures

SHAPE = "LLaVA-1.5-7B's shape at hidden {hidden_size} and {num_hidden_layers} layers, random weights"
TITLES = {"bench_llava": SHAPE, "bench_wide": SHAPE, "bench_demo": "The embedded model"}


def speed() -> str:
    """Prefill, method, decode and cache of every method and ideal."""
    return "\n\n".join("\n".join([f"**{title(name)}**", "", *table(run(name)), "", provenance(run(name))]) for name in TITLES)


def savings() -> str:
    """The short version for the README: the first model without the baselines, and one row of the second."""
    shaped, small = run("bench_llava"), run("bench_demo")
    lines = ["| | visual tokens | prefill | over the ideal | method, of full prefill | key/value cache |", "|---|---|---|---|---|---|"]
    full = shaped.groups[0].rows[0]
    for row, found in measured(shaped.groups[0]):
        if row is full or row.name.startswith("TokenCarve") or row.name == "FastV(keep=128)":
            saved = f" ({percent(row.cache_bytes / full.cache_bytes - 1, 1, sign=True)})" if row is not full else ""
            lines.append(
                f"| {label(row.name)} | {row.tokens} | {1 / found['prefill_of_full'].median:.2f}x as fast | {over_ideal(found)} "
                f"| {method(found, 1)} | {row.cache_bytes / 2**20:.1f} MiB{saved} |"
            )
    tiny = next(found for row, found in measured(small.groups[0]) if row.name == "TokenCarve(keep=128)")
    note = (
        f"{title('bench_llava')}. {provenance(shaped)} The embedded model is so small that choosing weighs more: "
        f"{1 / tiny['prefill_of_full'].median:.2f}x as fast at 128 tokens, of which the method takes "
        f"{method(tiny, 1)} of a full prefill."
    )
    return "\n".join([*lines, "", note])


def long_outputs() -> str:
    """Decoding over short and long outputs."""
    shown = run("bench_long")
    lengths = [length for length in shown.settings["new_tokens"] if length > 1]
    lines = [
        "| | visual tokens | prefill, of full | "
        + " | ".join(f"per token over {n}, of full | {n} tokens in all, of full" for n in lengths)
        + " |",
        "|---" * (3 + 2 * len(lengths)) + "|",
    ]
    for row, found in measured(shown.groups[0]):
        cells = [spread(found[f"{kind}_of_full {n}"]) for n in lengths for kind in ("decode", "end_to_end")]
        lines.append(f"| {label(row.name)} | {row.tokens} | {spread(found['prefill_of_full'])} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", provenance(shown)])


def layout() -> str:
    """Saved keys and values in the paper's layout, with early layers trimmed and untrimmed."""
    shown = run("bench_layout")
    rows = {(row.kind, row.tokens, row.layer): row for row in shown.groups[0].rows}
    full = rows["full", shown.groups[0].visual_tokens, None].cache_bytes
    lines = ["| visual tokens | saved | early layers left whole |", "|---|---|---|"]
    for keep in sorted({tokens for kind, tokens, _ in rows if kind == "method"}, reverse=True):
        saved = [percent(1 - rows[kind, keep, 2].cache_bytes / full, 1) for kind in ("method", "ideal")]
        lines.append(f"| {keep} | {saved[0]} | {saved[1]} |")
    return "\n".join([*lines, "", f"`{shown.command}`"])


def host() -> str:
    """What compression costs the host, where nearly all the time of a prefill is Python's."""
    shown = run("bench_host")
    lines = ["| | prefill, of plain | decoding step, of plain |", "|---|---|---|"]
    for name, found in shown.host_overhead.items():
        lines.append(f"| {label(name)} | {found['ratio']:.2f}x | {found['step_ratio']:.2f}x |")
    facts = shown.facts
    return "\n".join(
        [*lines, "", f"Medians of ratios formed within 30 interleaved rounds; {facts['processor']}, {facts['date']}. `{shown.command}`"]
    )


def selection() -> str:
    """The cost of choosing at the language model's input, in time and in operations."""
    lines = [
        "| decoder | kept | method, of full prefill: operations | time | prefill, of full | over the ideal |",
        "|---|---|---|---|---|---|",
    ]
    shown = [run(name) for name in ("bench_explainer", "bench_demo")]
    for each in shown:
        group = each.groups[0]
        for row, found in measured(group):
            if row.kind == "method" and row.layer == 0:
                work = row.flops["method"] / group.rows[0].flops["prefill"]
                lines.append(
                    f"| {decoder(each)} | {row.tokens} of {group.visual_tokens} | {percent(work, 2)} | {method(found, 2)} "
                    f"| {spread(found['prefill_of_full'])} | {over_ideal(found)} |"
                )
    return "\n".join([*lines, "", *map(provenance, shown)])


@cache
def run(name: str) -> Run:
    """A result of `foveate bench`."""
    return Run.load(RESULTS / f"{name}.json")


def title(name: str) -> str:
    """What a result is about, in words."""
    return TITLES[name].format(**run(name).shape["text"])


def decoder(shown: Run) -> str:
    """Width and depth of the decoder."""
    sizes = shown.shape["text"]
    return f"hidden {sizes['hidden_size']}, {sizes['num_hidden_layers']} layers"


def table(shown: Run) -> list[str]:
    """One model's table."""
    group, length = shown.groups[0], max(shown.settings["new_tokens"])
    lines = [
        "| | visual tokens | prefill, of full | faster | over the ideal | method, of full prefill | decode, of full | key/value cache |",
        "|---|---|---|---|---|---|---|---|",
    ]
    full = group.rows[0]
    for row, found in measured(group):
        ratio = found["prefill_of_full"]
        saved = f"{row.cache_bytes / 2**20:.1f} MiB" if row is full else percent(row.cache_bytes / full.cache_bytes - 1, 1, sign=True)
        lines.append(
            f"| {label(row.name)} | {row.tokens} | {spread(ratio)} | {1 / ratio.median:.2f}x | {over_ideal(found)} | {method(found, 2)} "
            f"| {percent(found[f'decode_of_full {length}'].median)} | {saved} |"
        )
    return lines


def measured(group: Group) -> Iterator[tuple[Row, dict[str, Quartiles]]]:
    """Rows with their figures, those of one budget together, the ideal first."""
    order = {"full": 0, "ideal": 1, "method": 2}
    for row in sorted(group.rows, key=lambda row: (-row.tokens, order[row.kind])):
        found = figures(group, row)
        if found:
            yield row, found


def spread(figure: Quartiles) -> str:
    """Median and quartiles."""
    return f"{percent(figure.median, 1)} ({figure.low * 100:.1f} to {figure.high * 100:.1f})"


def over_ideal(found: dict[str, Quartiles]) -> str:
    """The prefill compared with its ideal's, if there is one."""
    return percent(found["over_ideal"].median, 1, sign=True) if "over_ideal" in found else ""


def method(found: dict[str, Quartiles], digits: int) -> str:
    """The method's own time."""
    return percent(found["method_of_full_prefill"].median, digits) if "method_of_full_prefill" in found else ""


def provenance(shown: Run) -> str:
    """What was measured, on what, and with which command."""
    facts, group = shown.facts, shown.groups[0]
    text = group.prompt_tokens - group.visual_tokens
    return (
        f"{text} text and {group.visual_tokens} visual tokens, {facts['model']['dtype']}; medians (quartiles) of ratios formed within "
        f"{group.rounds} interleaved rounds, vision tower excluded; {facts['processor']}, {facts['threads']} threads, torch "
        f"{facts['torch']}, transformers {facts['transformers']}, {facts['date']}. `{shown.command}`"
    )
