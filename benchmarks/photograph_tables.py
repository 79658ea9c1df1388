"""The table of what the model with a pretrained decoder says of photographs."""

from __future__ import annotations

from common import load


def photographs() -> str:
    """Every answer, as it came."""
    answers = load("photographs")["answers"]
    questions = list(dict.fromkeys(question for own in answers.values() for question in own))
    lines = ["| | " + " | ".join(questions) + " |", "|---" * (len(questions) + 1) + "|"]
    for name, own in answers.items():
        lines.append(f"| {name} | " + " | ".join(own[question].replace("|", "\\|") for question in questions) + " |")
    return "\n".join(lines) + "\n\n`python benchmarks/photographs.py`, greedy, at most 40 tokens."
