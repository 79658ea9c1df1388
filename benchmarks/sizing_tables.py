"""The table of docs/serving.md that says how many images a GPU holds: computed, not measured."""

from __future__ import annotations

from foveate.cli.sizing import Sizing, cells

KEEP = "128,64"


def sizing() -> str:
    """Every known shape, at all tokens and at two budgets."""
    asked = Sizing(keep=KEEP)
    heads = asked.heads()
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for model in asked.models() for row in asked.rows(model)]
    return "\n".join(lines) + f"\n\nImages at the same time, {asked.assumed()}. `foveate sizing --keep {KEEP}`."
