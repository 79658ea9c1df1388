"""Tables of budgets that follow the image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common import load

from foveate.measure.statistics import bootstrap_mean, mcnemar, paired_bootstrap, wilson

READING = ("word", "number")


def adaptive() -> str:
    """Fixed budgets and those that follow the image: right answers and tokens, by kind of question."""
    data = load("adaptive")
    parts = _parts(data)
    head = ["questions", "number", "all tokens", *(f"{name}, {kind}" for name in data["methods"] for kind in ("fixed", "follows"))]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for part, places in parts.items():
        cells = [part, str(len(places)), _share(data["full"], places)]
        for method in data["methods"].values():
            cells.append(_share(method["fixed"]["right"], places))
            cells.append(f"{_share(method['follows']['right'], places)}, {_mean(method['follows']['tokens'], places):.0f} tokens")
        lines.append("| " + " | ".join(cells) + " |")
    return (
        "\n".join(lines) + "\n\n" + " ".join(_verdict(name, method, data, parts) for name, method in data["methods"].items()) + _note(data)
    )


def _parts(data: dict[str, Any]) -> dict[str, list[int]]:
    """The questions of each part by their places."""
    tests: dict[str, Callable[[int], bool]] = {
        "all": lambda place: True,
        "reading": lambda place: data["families"][place] in READING,
        "not reading": lambda place: data["families"][place] not in READING,
        "crowded scenes": lambda place: "crowded" in data["tags"][place],
        "sparse scenes": lambda place: "sparse" in data["tags"][place],
        "scenes with several signs": lambda place: data["signs"][place] > 1,
        "scenes without a sign": lambda place: data["signs"][place] == 0,
    }
    found = {name: [place for place in range(data["questions"]) if holds(place)] for name, holds in tests.items()}
    return {name: places for name, places in found.items() if places}


def _share(right: str, places: list[int]) -> str:
    count = sum(right[place] == "1" for place in places)
    low, high = wilson(count, len(places))
    return f"{count / len(places):.1%} ({low:.0%} to {high:.0%})".replace("%", " %")


def _mean(values: list[int], places: list[int]) -> float:
    return sum(values[place] for place in places) / len(places)


def _verdict(name: str, method: dict[str, Any], data: dict[str, Any], parts: dict[str, list[int]]) -> str:
    fixed, follows = ([float(mark) for mark in method[kind]["right"]] for kind in ("fixed", "follows"))
    low, high, _ = paired_bootstrap(fixed, follows)
    lost, won = (sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((fixed, follows), (follows, fixed)))
    tokens = method["follows"]["tokens"]
    change = (sum(follows) - sum(fixed)) / len(fixed)
    spread = [bootstrap_mean([float(tokens[place]) for place in parts[part]]) for part in ("crowded scenes", "sparse scenes")]
    return (
        f"`{method['follows']['method']}` keeps {min(tokens)} to {max(tokens)} tokens, {_mean(tokens, parts['all']):.1f} on average: "
        f"{spread[0][0]:.0f} to {spread[0][1]:.0f} (95 % interval of the mean) of crowded scenes and {spread[1][0]:.0f} to "
        f"{spread[1][1]:.0f} of sparse ones. Against {name} with a fixed budget it wins {won} questions and loses {lost} "
        f"({change * 100:+.1f} points, {low * 100:+.1f} to {high * 100:+.1f}; McNemar p = {mcnemar(lost, won):.2f})."
    )


def _note(data: dict[str, Any]) -> str:
    return (
        f" {data['questions']} held-out questions of the embedded model, exact match with 95 % intervals; {data['keep']} of 576 tokens, "
        f"exactly or on average, with `keep={data['most']}` and `at_least={data['least']}`. The mass is fitted on these pictures and "
        f"questions, without their answers. `python benchmarks/adaptive.py --each {data['each']}`."
    )
