"""Tables of benchmarks/results/explainability.json and relevance_memory.json for docs/explainability.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import interval, load


def kept_accuracy() -> str:
    """Accuracy, share of the full model's and share of what the image adds, for every method and budget."""
    data = load("explainability")
    lines = ["| | cut before layer | tokens | right | of full | of what the image adds |", "|---|---|---|---|---|---|"]
    for share in data["shares"]:
        for name, cells in data["methods"].items():
            cell = cells[str(share)]
            lines.append(
                f"| {name.removesuffix(', layer 2')} | {cell['layer']} | {share * 100:g} % | {interval(cell['scores']['all'])} "
                f"| {interval(cell['of_full'])} | {interval(cell['of_image'])} |"
            )
    full, blind, env = data["full"]["scores"]["all"], data["no_image"]["scores"]["all"], data["environment"]
    note = (
        f"All 576 tokens: {interval(full)} right; no image in the prompt: {interval(blind)}. {data['questions']} held-out questions, "
        f"{data['each']} of each kind, exact match; 95 % intervals: "
        f"Wilson's for accuracy, from resampled questions for the shares. {command(data)}, {env['date']}."
    )
    return "\n".join([*lines, "", note])


def command(data: Mapping[str, Any]) -> str:
    """The command that makes these results, after compressors.py."""
    return f"`python benchmarks/explainability.py --each {data['each']} --networks out/compressors`"


def at_the_input() -> str:
    """The README's short version: methods that act before the language model has run."""
    data = load("explainability")
    shares = [str(share) for share in data["shares"]]
    lines = ["| kept | " + " | ".join(f"{float(share) * 100:g} %" for share in shares) + " |", "|---" * (len(shares) + 1) + "|"]
    for name in ("Oracle", "Explainer", "FirstLayerAttention", "Random", "Pool"):
        cells = data["methods"][name]
        lines.append(f"| {name} | " + " | ".join(interval(cells[share]["scores"]["all"]) for share in shares) + " |")
    full = data["full"]["scores"]["all"]
    return "\n".join([*lines, "", f"All 576 tokens: {interval(full)}. {data['questions']} questions, exact match. {command(data)}"])


def foretold() -> str:
    """How many of the truly most relevant tokens each method kept, and how well its scores rank all tokens."""
    data = load("explainability")
    shares = [str(share) for share in data["shares"]]
    lines = [
        "| | " + " | ".join(f"of the top {float(share) * 100:g} %" for share in shares) + " | rank correlation |",
        "|---" * (len(shares) + 2) + "|",
    ]
    for name, cells in data["methods"].items():
        kept = " | ".join(f"{cells[share]['overlap'] * 100:.1f} %" for share in shares)
        correlation = cells[shares[0]]["correlation"]
        lines.append(f"| {name} | {kept} | {'' if correlation is None else f'{correlation:.2f}'} |")
    return "\n".join(lines)


def ablations() -> str:
    """Networks that differ in one thing, at one budget."""
    data = load("explainability")
    networks = {name: cells["0.25"] for name, cells in data["methods"].items() if name in data["networks"]} | data["ablations"]
    lines = [
        "| | parameters | epoch | of the top 50 % | of the top 25 % | rank correlation | right at 25 % | of full |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, cell in networks.items():
        made = data["networks"][name]
        lines.append(
            f"| {name} | {made['parameters'] / 1e6:.2f} M | {made['training']['epoch']} of {made['training']['recipe']['epochs']} "
            f"| {cell['top 0.5'] * 100:.1f} % | {cell['top 0.25'] * 100:.1f} % | {cell['correlation']:.2f} "
            f"| {interval(cell['scores']['all'])} | {interval(cell['of_full'])} |"
        )
    return "\n".join(lines)


def resolutions() -> str:
    """Networks trained at one image size and tested at another."""
    data = load("resolutions")
    sizes = data["tokens"]
    lines = ["| network | trained on | judged on | of the top 50 % | of the top 25 % | rank correlation |", "|---" * 6 + "|"]
    for cell in data["cells"]:
        trained, judged = (f"{sizes[str(cell[name])]} tokens" for name in ("trained", "judged"))
        lines.append(
            f"| {cell['network']} | {trained} | {judged} | {cell['overlap_50'] * 100:.1f} % | {cell['overlap_25'] * 100:.1f} % "
            f"| {cell['rank_correlation']:.2f} |"
        )
    images = sorted({cell["images"] for cell in data["cells"]})
    note = f"The embedded Qwen2-VL; {data['training']} scenes to learn from, {' to '.join(map(str, images))} labelled ones held out."
    return "\n".join([*lines, "", note])


def relevance_memory() -> str:
    """Peak memory and time of relevance against a plain checkpointed backward pass."""
    data = load("relevance_memory")
    rows: list[Mapping[str, Any]] = data["measurements"]
    plain = {row["length"]: row for row in rows if row["way"] == "plain"}
    lines = ["| | tokens | peak | of plain | CPU seconds | of plain |", "|---|---|---|---|---|---|"]
    for row in rows:
        base = plain[row["length"]]
        if row["bytes"] is None:
            maps = f"{row['maps_bytes'] / 2**30:.1f} GiB"
            lines.append(f"| {row['way']} | {row['length']} | maps and gradients alone {maps}, not run | | | |")
            continue
        lines.append(
            f"| {row['way']} | {row['length']} | {row['bytes'] / 2**20:.0f} MiB | {row['bytes'] / base['bytes']:.2f} "
            f"| {row['seconds']:.1f} | {row['seconds'] / base['seconds']:.2f} |"
        )
    note = f"`python benchmarks/relevance_memory.py --rounds {data['rounds']}`, {data['environment']['processor']}."
    return "\n".join([*lines, "", note])
