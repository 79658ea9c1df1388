"""The table of what the model with a pretrained decoder learned, from the header of the adapters that ship."""

from __future__ import annotations

from common import interval, load, percent

from foveate.measure.statistics import wilson
from foveate.recipe.smollm2.artefact import read_adapters
from foveate.recipe.smollm2.build import SHIPPED

GOALS = {"colour": 85, "shape": 85, "presence": 85, "side": 85, "count": 60, "reading": 50, "digit": 80}
"""Per cent, as they were set before the training."""
COLUMNS = {
    "all_tokens": "all 144 tokens",
    "other_picture": "another picture",
    "no_picture": "no picture",
    "random_before_layer_0": "random half",
}


def pretrained_answers() -> str:
    """Right answers by kind of question, with the goals."""
    shipped = read_adapters(SHIPPED)
    found = shipped.results["small_pictures"]
    lines = ["| question | asked | " + " | ".join(COLUMNS.values()) + " | goal |", "|---" * (len(COLUMNS) + 3) + "|"]
    for family in sorted(found["questions"], key=lambda name: (name == "all", name not in GOALS, name)):
        if family in ("character", "description"):
            continue
        asked = found["questions"][family]
        cells = " | ".join(_cell(found[column][family], asked) for column in COLUMNS)
        goal = f"{GOALS[family]} %" if family in GOALS else ""
        lines.append(f"| {family} | {asked} | {cells} | {goal} |")
    texts = shipped.results["texts"]
    note = (
        f"Held-out pictures of 144 patches, exact match, 95 % intervals; *reading* is words and numbers together. {shipped.step} steps, "
        f"{shipped.results['questions_seen']} questions and notes. Of {texts['asked']} questions without a picture it answers "
        f"{texts['right']} rightly, the untouched decoder {texts['before']}. Measured by the training run."
    )
    return "\n".join([*lines, "", note])


def _cell(share: float, asked: int) -> str:
    low, high = wilson(round(share * asked), asked)
    return interval({"share": share, "low": low, "high": high})


def pretrained_curve() -> str:
    """What the model answered during its training."""
    families = ("colour", "presence", "side", "count", "reading")
    lines = ["| questions and notes seen | asked | all | " + " | ".join(families) + " |", "|---" * (len(families) + 3) + "|"]
    for row in load("smollm2_curve")["held_out"]:
        cells = " | ".join(percent(row["right"][name]) for name in families)
        seen = f"{row['questions']}{', with notes' if row['notes'] else ''}"
        lines.append(f"| {seen} | {row['asked']['all']} | {percent(row['right']['all'])} | {cells} |")
    note = (
        "Held-out pictures of 144 patches, the same few at every row with as many questions. The lines `held_out` of the run's curve.jsonl."
    )
    return "\n".join([*lines, "", note])
