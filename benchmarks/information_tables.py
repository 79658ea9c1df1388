"""The tables of docs/information_loss.md, and the same of other runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common import load

SOURCES = {"hidden_states": "hidden states that enter layer {}", "attention_output": "attention output of layer {}"}


def information_cells(data: Mapping[str, Any] | None = None) -> str:
    """Accuracy, and effective rank of both sources after the cut, of every method and budget."""
    data = data or load("information_loss")
    layer = data["settings"]["layer"]
    names = [f"{source} {layer} effective_rank" for source in SOURCES]
    budgets = sorted({cell["keep"] for cell in data["cells"]}, reverse=True)
    cells = {(cell["method"], cell["keep"]): cell for cell in data["cells"]}
    lines = ["| | " + " | ".join(map(str, budgets)) + " |", "|---" * (len(budgets) + 1) + "|"]
    for method in dict.fromkeys(cell["method"] for cell in data["cells"]):
        shown = [f"{_accuracy(cells[method, keep])}; {_ranks(cells[method, keep], names)}" for keep in budgets]
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    full = data["full"]
    note = (
        f"Answers right (95 % interval); effective rank of hidden states and of attention output at layer {layer}. "
        f"All {full['keep']} tokens: {_accuracy(full)}; {_ranks(full, names)}. "
        f"{data['questions']} questions about {data['scenes']} scenes, cut before layer {layer}; "
        f"random choices are means of {data['seeds']} draws."
    )
    return "\n".join(lines) + f"\n\n{note}"


def information_correlations(data: Mapping[str, Any] | None = None) -> str:
    """Spearman's correlation of effective rank and accuracy, by what is held constant."""
    data = data or load("information_loss")
    lines = [
        "| effective rank of | all cells | equal budgets | p over methods | weakest without one method | same question | chance alone |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in data["correlations"]:
        if entry["measure"] != "effective_rank":
            continue
        equal = entry["equal_budget"]
        method, weakest = min(equal["without"].items(), key=lambda item: item[1]["value"] if item[1]["value"] is not None else 2)
        cells = [
            SOURCES[entry["source"]].format(entry["layer"]),
            _interval(entry["cells"]["spearman"]),
            _interval(equal["spearman"]),
            "undefined" if equal["p_over_methods"] is None else f"{equal['p_over_methods']:.3f}",
            f"{_interval(weakest)}, {method}",
            _interval(entry["equal_question"]["spearman"]),
            _interval(entry["equal_draws"]["spearman"]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    facts = data["facts"]
    note = (
        f"`{data['command']}`; {data['questions']} questions about {data['scenes']} scenes; intervals of 95 % over resampled scenes; "
        f"torch {facts['torch']}, transformers {facts['transformers']}, {facts['date']}."
    )
    return "\n".join(lines) + f"\n\n{note}"


def _accuracy(cell: Mapping[str, Any]) -> str:
    found = cell["accuracy"]
    return f"{100 * found['value']:.0f} % ({100 * found['low']:.0f} to {100 * found['high']:.0f})"


def _ranks(cell: Mapping[str, Any], names: list[str]) -> str:
    return " / ".join(f"{cell['information'][name]:.1f}" for name in names)


def _interval(found: Mapping[str, float | None]) -> str:
    if found["value"] is None:
        return "undefined"
    return f"{found['value']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"
