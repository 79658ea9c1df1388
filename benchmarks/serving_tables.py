"""Tables of what the serving benchmarks measured, for docs/serving.md."""

from __future__ import annotations

from typing import Any

from common import interval, load, percent

MARKS = {"requests_per_s": "requests/s", "tokens_per_s": "tokens/s", "ttft_p50_ms": "first token p50, ms", "ttft_p95_ms": "p95, ms"}


def serving() -> str:
    """Every load and method: the measured values, and the ratio to the full model's throughput and time to first token."""
    data = load("serving")
    lines = [
        "| requests at once | visual tokens | " + " | ".join(MARKS.values()) + " | tokens/s, of full | first token, of full |",
        "|---" * (len(MARKS) + 4) + "|",
    ]
    for name, cells in data["summary"].items():
        if name != "shared":
            lines += rows(data, name, cells)
    command = f"python benchmarks/serving.py --rounds {len(data['rounds'])} --methods {','.join(data['methods'])} --dtype {data['dtype']}"
    return "\n".join([*lines, "", f"{provenance(data)} `{command}`."])


def serving_shared() -> str:
    """Many questions about few images, with what the caches did."""
    data = load("serving")
    shared = data["shared"]
    lines = [
        "| visual tokens | "
        + " | ".join(MARKS.values())
        + " | tokens/s, of full | first token, of full | prompt tokens from the prefix cache |",
        "|---" * (len(MARKS) + 4) + "|",
    ]
    for name, cell in data["summary"]["shared"].items():
        lines.append(f"| {row(data, name, cell)} | {percent(cell['prefix_hits'][1])} |")
    count = data["requests"]["shared"]
    note = f"{count} questions about {shared['images']} images, {shared['concurrency']} at once; otherwise as above."
    return "\n".join([*lines, "", note])


def rows(data: dict[str, Any], load_name: str, cells: dict[str, Any]) -> list[str]:
    """One line for each server."""
    return [f"| {load_name} | {row(data, name, cell)} |" for name, cell in cells.items()]


def row(data: dict[str, Any], name: str, cell: dict[str, Any]) -> str:
    """One server under one load."""
    what = f"all {data['model']['visual_tokens']}" if name == "full" else f"{data['keep']}, {name}"
    values = " | ".join(f"{cell[measure][1]:.{2 if cell[measure][1] < 10 else 0}f}" for measure in MARKS)
    ratios = ("1", "1") if name == "full" else tuple(ratio(cell[f"{measure}_of_full"]) for measure in ("tokens_per_s", "ttft_p50_ms"))
    return f"{what} | {values} | " + " | ".join(ratios)


def ratio(cell: list[float]) -> str:
    """A median with its quartiles."""
    low, middle, high = cell
    return f"{middle:.2f}x" if low == high else f"{middle:.2f}x ({low:.2f} to {high:.2f})"


def provenance(data: dict[str, Any]) -> str:
    """What was measured, and where."""
    model, facts = data["model"], data["environment"]
    made = "random weights" if data["made"] else "its own weights"
    several = f"Medians of {len(data['rounds'])} rounds; ratios are formed within a round, with quartiles in brackets."
    rounds = several if len(data["rounds"]) > 1 else "One round, in which all servers are asked in turn."
    return (
        f"A LLaVA of {model['parameters'] / 1e6:.0f} M parameters (decoder of hidden {model['hidden_size']} and {model['layers']} layers, "
        f"{data['dtype']}, {made}), an image of its own and {data['new_tokens']} new tokens for each request. {rounds} "
        f"vLLM {data['vllm']}, one compute thread for each server; {facts['processor']}, {facts['cores']} cores with a load average of "
        f"{data['load_average']:.0f}, {facts['date']}."
    )


def serving_accuracy() -> str:
    """The embedded model over HTTP, against foveate on transformers."""
    data = load("serving_accuracy")
    command = f"python benchmarks/serving_accuracy.py --each {data['each']} --methods {','.join(data['methods'])}"
    lines = [
        "| visual tokens | foveate on transformers | served | answers that differ | lost / won | served without BOS |",
        "|---|---|---|---|---|---|",
    ]
    for name, cell in data["methods"].items():
        what = "all 576" if name == "full" else f"{data['keep']}, {name}"
        served, without = cell["vllm"], cell["vllm, no first token"]
        lines.append(
            f"| {what} | {interval(cell['transformers'])} | {interval(served)} | {served['different']} "
            f"| {served['lost']} / {served['won']} | {interval(without)} |"
        )
    return "\n".join(lines) + (
        f"\n\n{data['questions']} questions about held-out scenes, exact match, {data['dtype']}, greedy. The last column is what vLLM's "
        f"chat endpoint does without `add_special_tokens`. `{command}`, {data['environment']['date']}."
    )


def serving_abuse() -> str:
    """Good and bad requests, all at once."""
    data = load("serving_abuse")
    memory = ", ".join(f"{size / 2**20:,.0f} MiB in the {part}" for part, size in data["memory"].items())
    kinds = ", ".join(f"{name} ({count})" for name, count in data["kinds"].items())
    after = "answers as before" if data["answers_afterwards"] else "answers differently"
    return (
        f"{data['requests']:,} requests after {data['warm_up']:,} to warm up, {data['concurrency']} at once, {data['good']:,} of all good: "
        f"{len(data['wrong_answers'])} wrong answers, {len(data['unexpected'])} unexpected statuses, and the server {after} "
        f"afterwards. Memory of all its processes: {memory}.\n\n"
        f"Requests: {kinds}. `python benchmarks/serving_abuse.py`, {data['environment']['date']}."
    )
