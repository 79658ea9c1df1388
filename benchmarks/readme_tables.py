"""Tables that sum the project up in README.md and docs/index.md: the three figures, the methods and the families."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from common import interval, load, percent
from speed_tables import measured, run, title

from foveate.families.support import PROMPTS, Support, support
from foveate.methods import methods
from foveate.methods.traits import MethodTraits, traits_of


def headline() -> str:
    """What one method saves and costs at one budget: three figures, each with what was measured and how to measure it again."""
    speed, accuracy = run("bench_llava"), load("accuracy")
    full = speed.groups[0].rows[0]
    row, found = next((row, found) for row, found in measured(speed.groups[0]) if row.name == "TokenCarve(keep=128)")
    right, of = (cells["scores"]["overall"] for cells in (accuracy["methods"]["TokenCarve"]["128"], accuracy["full"]))
    lines = [
        "| with 128 of 576 visual tokens | | measured on |",
        "|---|---|---|",
        f"| prefill | **{1 / found['prefill_of_full'].median:.2f}x as fast** | {title('bench_llava')}; CPU |",
        f"| key/value cache | **{percent(1 - row.cache_bytes / full.cache_bytes, 1)} smaller** | the same |",
        f"| right answers | **{percent(right['share'], 1)}**, where all tokens give {percent(of['share'], 1)} | {of['n']} questions about "
        "drawn scenes, the embedded model of 6.5 M parameters |",
    ]
    commands = f"* `{speed.command}`\n* `python benchmarks/accuracy.py --each {accuracy['each']}`"
    note = f'<details markdown="1"><summary>TokenCarve, cut before layer 2; the commands</summary>\n\n{commands}\n\n</details>'
    return "\n".join(lines) + f"\n\n{note}"


def method_table() -> str:
    """Every method that comes with foveate, from the registry."""
    lines = ["| method | what it does | acts before | needs | source |", "|---|---|---|---|---|"]
    known = [(kind, traits_of(kind)) for kind in methods().values()]
    for kind, own in sorted(known, key=lambda pair: (pair[1].paper is None, pair[0].__name__)):
        lines.append(f"| `{kind.__name__}` | {kind.summary().rstrip('.')} | {_stage(own)} | {_needs(own)} | {_source(own)} |")
    return "\n".join(lines)


def family_table() -> str:
    """Every family with ticks; model types of the generic path that can do the same share a row."""
    lines = [
        "| family | model types | image | several images | video | attention signals | vision-tower signals |",
        "|---|---|" + ":-:|" * 5,
    ]
    shared: dict[tuple[str, ...], list[str]] = {}
    for row in support():
        if row.generic:
            shared.setdefault(tuple(_ticks(row)), []).extend(row.model_types)
        else:
            lines.append(f"| {row.family} | {_code(row.model_types)} | " + " | ".join(_ticks(row)) + " |")
    lines += [f"| generic path | {_code(sorted(types))} | " + " | ".join(ticks) + " |" for ticks, types in shared.items()]
    return "\n".join(lines)


def _ticks(row: Support) -> Iterator[str]:
    for prompt in PROMPTS:
        yield "as images" if prompt == "video" and "frames" in row.takes else _tick(prompt in row.takes)
    yield _tick({"last_attention", "text_attention", "head_attention"} <= row.signals)
    yield _tick({"tower_attention", "tower_states"} <= row.signals)


def _tick(yes: bool) -> str:
    return "✓" if yes else "-"


def _code(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _stage(own: MethodTraits) -> str:
    if own.stages:
        return f"{len(own.stages)} layers, at shares of the model's depth, or any others"
    return f"layer {own.layer}, or any other" if own.other_layers else f"layer {own.layer}, the language model's input"


def _needs(own: MethodTraits) -> str:
    return "; ".join([_code(own.signals)] * bool(own.signals) + [*own.given]) or "nothing"


def _source(own: MethodTraits) -> str:
    """The paper that a docstring names; "after" it where the class is a variant."""
    if own.paper is None:
        return "baseline"
    link = f"[{own.paper}]({own.url})"
    return link if own.own else f"after {link}"


def pretrained_short() -> str:
    """Every method and budget on the model with a pretrained decoder."""
    data = load("unsupervised")
    budgets = [str(keep) for keep in data["budgets"]]
    lines = ["| kept | before layer | " + " | ".join(f"{percent(int(keep) / 144)}" for keep in budgets) + " |"]
    lines.append("|---" * (len(budgets) + 2) + "|")
    for name, found in data["methods"].items():
        if name not in ("Norm", "Oracle"):
            lines.append(f"| {name} | {found['layer']} | " + " | ".join(interval(found["budgets"][keep]) for keep in budgets) + " |")
    full, blind = data["answers"]["all"]["full"], data["answers"]["all"]["blind"]
    note = (
        f"All 144 tokens: {interval(full)}; no picture: {interval(blind)}. {data['questions']} questions about {data['pictures']} pictures."
    )
    return "\n".join([*lines, "", f"{note} `python benchmarks/unsupervised.py`."])
