"""Tables of what `benchmarks/gpu.py` measured, for docs/gpu.md and README.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common import RESULTS, label, load, percent

Found = Mapping[str, Any]
RULE = "|---"
NAMES = {"auto": "fast on accelerators", "fast": "fast", "exact": "exact"}


def gpu() -> str:
    """Every section that was measured, each with a heading, and why the others were not."""
    if not (RESULTS / "gpu.json").exists():
        return "Nothing has been measured yet: `python benchmarks/gpu.py` on a machine with a CUDA device writes this page."
    return page(load("gpu"))


def gpu_short() -> str:
    """The short version for the README: prefill at each batch size, of the full model and of the ideal."""
    if not (RESULTS / "gpu.json").exists():
        return "Nothing has been measured on a GPU yet."
    data = load("gpu")
    found = data["sections"].get("prefill", {}).get("results")
    return "\n".join([*prefill_table(found["groups"]), "", provenance(data)]) if found else provenance(data)


def page(data: Found) -> str:
    """The generated part of docs/gpu.md."""
    parts = [provenance(data)]
    for name, (title, write) in WRITERS.items():
        state = data["sections"].get(name)
        if state is None:
            continue
        parts += ["", f"### {title}", ""]
        if state.get("results"):
            parts += write(state["results"])
        if state["state"] != "done":
            parts += [
                "",
                f"This section {'was not finished' if state.get('results') else 'has no figures'}: {state.get('reason', 'no reason')}.",
            ]
    return "\n".join(parts)


def provenance(data: Found) -> str:
    """What it was measured on, with which versions, and how long each section took."""
    facts = data.get("environment") or {}
    card = facts.get("accelerator") or f"no GPU, {facts.get('processor', 'unknown processor')}"
    driver = f", driver {facts['driver_version']}" if facts.get("driver_version") else ""
    limit = f", power limit {facts['power.limit']}" if facts.get("power.limit") else ""
    spent = ", ".join(f"{name} {state['seconds']:.0f}" for name, state in data["sections"].items() if "seconds" in state)
    return (
        f"{card}{driver}{limit}; torch {facts.get('torch')}, CUDA {facts.get('cuda')}, transformers {facts.get('transformers')}, foveate "
        f"{facts.get('foveate')}, {facts.get('date')}. `{data['command']}`; seconds per section: {spent}."
    )


def tests(found: Found) -> list[str]:
    """Counts, and what failed."""
    lines = [f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped (`pytest -m gpu`)."]
    return lines + [f"* `{each['test']}`: {each['reason']:.200}" for each in found["which"]]


def waits(found: Found) -> list[str]:
    """How often the host waits for the device."""
    if "rows" not in found:
        return [f"Not counted: {found['skipped']}."]
    columns = list(dict.fromkeys((row["layers"], row["batch"]) for row in found["rows"]))
    heads = [f"{layers} layers, batch {batch}" for layers, batch in columns]
    lines = [row_of(["waits per prefill / per decoding step", *heads]), RULE * (len(columns) + 1) + "|"]
    for name in dict.fromkeys(row["name"] for row in found["rows"]):
        by = {(row["layers"], row["batch"]): row for row in found["rows"] if row["name"] == name}
        cells = [f"{sum(by[key]['prefill'].values())} / {sum(by[key]['step'].values())}" if key in by else "" for key in columns]
        lines.append(row_of([title(name), *cells]))
    return lines


def prefill_table(groups: Sequence[Found]) -> list[str]:
    """Prefill times beside the full model and the ideal, the device's and the hooks' part in them."""
    heads = ["", "batch", "visual tokens", "prefill", "of full", "over the ideal", "method, of full prefill"]
    heads += ["device busy", "host in hooks", "peak memory added"]
    lines = [row_of(heads), RULE * len(heads) + "|"]
    for group in groups:
        for row in group["rows"]:
            start = [title(row["name"]), str(group["batch"]), f"{row['tokens']:,} of {group['visual_tokens']:,}"]
            if row["failed"] or not row["figures"]:
                lines.append(row_of([*start, f"skipped: {row['failed']}", *[""] * (len(heads) - 4)]))
                continue
            cells = [time(row, "prefill"), share(row, "prefill_of_full"), share(row, "over_ideal", sign=True)]
            cells += [share(row, "method_of_full_prefill"), busy(row, "prefill", "prefill"), milliseconds(row["hooks"].get("prefill"))]
            lines.append(row_of([*start, *cells, mebibytes(row["memory"].get("added"))]))
    return lines


def prefill(found: Found) -> list[str]:
    """The table and what its columns are."""
    groups = found["groups"]
    rounds = ", ".join(str(len(group["rows"][0]["timings"])) for group in groups)
    visual = " and ".join(dict.fromkeys(f"{group['visual_tokens']:,}" for group in groups))
    text = groups[0]["prompt_tokens"] - groups[0]["visual_tokens"]
    note = f"{text} text and {visual} visual tokens, vision tower excluded; medians and, in parentheses, quartiles of interleaved rounds"
    return [*prefill_table(groups), "", f"{note} ({rounds})."]


def decode(found: Found) -> list[str]:
    """Time per token of what `generate` makes."""
    group = found["groups"][0]
    counts = sorted({int(name.split()[1]) for row in group["rows"] for name in row["figures"] if name.startswith("decode ")})
    heads = ["", "visual tokens", "first token"]
    for count in counts:
        heads += [f"per token over {count}", "of full", "of full decoded alike", f"{count} tokens in all"]
    lines = [row_of(heads), RULE * len(heads) + "|"]
    for row in group["rows"]:
        if row["failed"] or not row["figures"]:
            lines.append(row_of([title(row["name"]), str(row["tokens"]), f"skipped: {row['failed']}", *[""] * (len(heads) - 3)]))
            continue
        cells = [time(row, "first_token")]
        for count in counts:
            cells += [time(row, f"decode {count}"), share(row, f"decode_of_full {count}"), share(row, f"decode_of_same {count}")]
            cells.append(time(row, f"end_to_end {count}"))
        lines.append(row_of([title(row["name"]), str(row["tokens"]), *cells]))
    return [*lines, "", f"Batch {group['batch']}; the step is compiled by {found['compilation']}; tower included in the first token."]


def relevance(found: Found) -> list[str]:
    """One line."""
    figure, weights = found["seconds"], found["weights"]
    return [
        f"`foveate.relevance` of {found['answer_tokens']} answer tokens over {found['tokens']} tokens takes {figure['median']:.2f} s "
        f"({figure['low']:.2f} to {figure['high']:.2f}) and {mebibytes(found['added'])} in addition to {weights / 1e9:.1f} GB of "
        f"weights; a prefill takes {mebibytes(found['prefill_added'])}."
    ]


def information(found: Found) -> list[str]:
    """Milliseconds for each size and kind."""
    lines = [row_of(["pictures", "tokens x width", "information", "ms"]), RULE * 4 + "|"]
    for row in found["rows"]:
        figure = row.get("milliseconds")
        shown = f"{figure['median']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})" if figure else f"refused: {row['reason']}"
        lines.append(row_of([str(row["pictures"]), f"{row['tokens']} x {row['width']}", NAMES.get(row["kind"], row["kind"]), shown]))
    return lines


WRITERS: dict[str, tuple[str, Callable[[Found], list[str]]]] = {
    "tests": ("Tests", tests),
    "waits": ("Waits of the host", waits),
    "prefill": ("Prefill of LLaVA-1.5-7B's shape", prefill),
    "compiled_layers": ("The same with compiled layers after the cut", prefill),
    "decode": ("Decoding", decode),
    "long_prompts": ("Prefill of Qwen2.5-VL-7B's shape", prefill),
    "relevance": ("Memory of relevance", relevance),
    "information": ("Information contribution alone", information),
    "decode_stock": ("Decoding with transformers' own choice of a compiler", decode),
}


def title(name: str) -> str:
    """The name of a row in tables."""
    kinds = {"auto": "", "fast": ", fast information", "exact": ", exact information"}
    found = next((text for kind, text in kinds.items() if f"information='{kind}'" in name), "")
    way = name.rpartition("), ")[2] if "), " in name else ""
    return name if "(" not in name else ", ".join(filter(None, [label(name).split(",")[0] + found, way]))


def row_of(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def time(row: Found, name: str) -> str:
    """A median with its quartiles, in milliseconds."""
    figure = row["figures"].get(name)
    return "" if figure is None else f"{1e3 * figure['median']:.1f} ms ({1e3 * figure['low']:.1f} to {1e3 * figure['high']:.1f})"


def share(row: Found, name: str, *, sign: bool = False) -> str:
    """A median in percent."""
    figure = row["figures"].get(name)
    return "" if figure is None else percent(figure["median"], 1, sign=sign)


def busy(row: Found, stage: str, name: str) -> str:
    """The time in which the device computes, and its share of the time on the clock."""
    seconds = row["busy"].get(stage)
    return "" if seconds is None else f"{milliseconds(seconds)} ({percent(seconds / row['figures'][name]['median'])})"


def milliseconds(seconds: float | None) -> str:
    """Of a single measurement."""
    return "" if seconds is None else f"{1e3 * seconds:.1f} ms"


def mebibytes(count: int | None) -> str:
    """A number of bytes."""
    return "" if count is None else f"{count / 2**20:,.0f} MiB"
