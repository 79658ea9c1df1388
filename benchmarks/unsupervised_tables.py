"""Tables of benchmarks/results/unsupervised.json for docs/pretrained_decoder.md."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from common import RESULTS, interval, load, percent
from information_tables import information_cells, information_correlations

NAME = "unsupervised"
SHOWN = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 29)
"""Layers of the tables; the picture shows all."""
KINDS = ("object", "reading", "position", "all")
MISSING = "Not measured with this version's weights yet: `python benchmarks/unsupervised.py`."


def if_measured(table: Callable[[], str]) -> Callable[[], str]:
    """The table, or a line that says that nothing was measured."""

    @functools.wraps(table)
    def found() -> str:
        return table() if (RESULTS / f"{NAME}.json").exists() else MISSING

    return found


@if_measured
def unsupervised_answers() -> str:
    """What the model answers with the picture and without."""
    data = load(NAME)
    lines = ["| questions | n | all 144 tokens | no picture |", "|---|---|---|---|"]
    for kind, found in data["answers"].items():
        if found:
            lines.append(f"| {kind} | {found['full']['n']} | {interval(found['full'])} | {interval(found['blind'])} |")
    checks = data["check"].values()
    same, asked = (sum(map(len, own)) for own in ([_same(row) for row in checks], [row["right"] for row in checks]))
    families = ", ".join(f"{name} {count}" for name, count in data["families"].items())
    note = (
        f"Right in per cent, 95 % intervals. {data['questions']} questions about {data['pictures']} held-out pictures ({families}). "
        f"Of {asked} answers, with and without compression, {same} are right or wrong alike if `generate` gives them. {_facts(data)}"
    )
    return "\n".join([*lines, "", note])


def _same(row: Mapping[str, str]) -> str:
    return "".join("1" for own, theirs in zip(row["right"], row["generate"], strict=True) if own == theirs)


def _facts(data: Mapping[str, Any]) -> str:
    facts = data["facts"]
    return f"`python benchmarks/unsupervised.py`, torch {facts['torch']}, transformers {facts['transformers']}, {facts['date']}."


@if_measured
def unsupervised_recall() -> str:
    """What attention, information and norm find in the top quarter, by layer."""
    data = load(NAME)["recall"]["all"]
    kinds = [kind for kind in KINDS if kind in data]
    lines = ["| signal | layer | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 2) + "|"]
    for signal, words in {"attention": "attention in layer", "information": "information, entering", "norm": "norm, entering"}.items():
        for layer in SHOWN:
            cells = " | ".join(_recalled(data[kind][signal]["quarter"][layer]) for kind in kinds)
            lines.append(f"| {words} | {layer} | {cells} |")
    note = "; ".join(f"{kind} {data[kind]['n']}" for kind in kinds)
    return "\n".join([*lines, "", f"Share of the relevant tokens in the top 36 of 144, in per cent; chance is 25. Questions: {note}."])


def _recalled(found: Mapping[str, float]) -> str:
    return f"{100 * found['value']:.0f} ({100 * found['low']:.0f}-{100 * found['high']:.0f})"


@if_measured
def unsupervised_best() -> str:
    """The best layer of each signal, and the best head, chosen in hindsight, for all questions and for those answered right."""
    data = load(NAME)["recall"]
    lines = ["| questions | | n | attention | one head | information | norm | relevance (n) |", "|---" * 8 + "|"]
    for of, words in {"all": "all", "right": "answered right"}.items():
        for kind in KINDS:
            found = data.get(of, {}).get(kind)
            if found is None:
                continue
            best = [_best(found[signal]) for signal in ("attention", "information", "norm")]
            head = found["best_head"]
            known = found.get("relevance")
            shown = f"{_recalled(known['quarter'])} / {_recalled(known['half'])} ({known['n']})" if known else "not measured"
            cells = [best[0], f"{_recalled(head)}, layer {head['layer']}, head {head['head']}", best[1], best[2], shown]
            lines.append(f"| {words} | {kind} | {found['n']} | " + " | ".join(cells) + " |")
    note = (
        "Share of the relevant tokens in the top quarter / half, in per cent, at the layer that is best at a quarter; chance is 25 / 50. "
        "Layer and head are chosen in hindsight, on the same questions, so a new picture would give less. The head's figure is that of a "
        "quarter."
    )
    return "\n".join([*lines, "", note])


def _best(found: Mapping[str, list[dict[str, float]]]) -> str:
    layer = max(range(len(found["quarter"])), key=lambda number: found["quarter"][number]["value"])
    return f"{_recalled(found['quarter'][layer])} / {_recalled(found['half'][layer])}, layer {layer}"


@if_measured
def unsupervised_sinks() -> str:
    """Norms, and the attention that the first token takes."""
    names = {
        "first": "first token's norm",
        "other_text": "largest of the other text before the picture",
        "largest": "largest visual token's",
        "largest_of_all": "in any picture",
        "attention_first": "attention to the first token",
        "attention_visual": "to all visual tokens",
    }
    note = (
        "Norms of the states that enter a layer, over the median visual token's; attention of the last prompt token in the layer, mean "
        "over heads. Means over pictures, but for the largest visual token in any of them."
    )
    return _by_layer(names, note)


@if_measured
def unsupervised_scores() -> str:
    """What norms do to the information score and to cosines."""
    names = {
        "score_largest": "largest score",
        "score_norm": "score and norm",
        "score_directions": "and score of directions",
        "score_without_1": "and score without the longest",
        "score_without_4": "without four",
        "same_without_4": "best 36 that stay",
        "channel": "largest channel",
        "cosine": "mean cosine",
        "same_nearest": "same neighbour without the channel",
    }
    note = (
        "*Largest score*: over the median. Then rank correlations of the information score: with the norm; with the score of the same "
        "states scaled to length 1; and, over the other tokens, with the score that they get if the longest visual tokens are set apart; "
        "*best 36 that stay*: how many of the others' best 36 are the same then. *Largest channel*: its share of the visual tokens' "
        "energy; *same neighbour*: how many visual tokens keep their most similar one, which they would be merged with, if that channel "
        "is left out."
    )
    return _by_layer(names, note)


def _by_layer(names: Mapping[str, str], note: str) -> str:
    rows = load(NAME)["sinks"]
    lines = ["| layer | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {layer} | " + " | ".join(_number(name, rows[layer][name]) for name in names) + " |" for layer in SHOWN]
    return "\n".join([*lines, "", note])


def _number(name: str, value: float) -> str:
    if name in ("first", "other_text", "largest", "largest_of_all", "score_largest"):
        return f"{value:.1f}"
    return f"{value:+.2f}" if name.startswith("score") else percent(value) if name != "cosine" else f"{value:.2f}"


@if_measured
def unsupervised_layers() -> str:
    """Accuracy with a quarter of the tokens from each layer on."""
    data = load(NAME)
    found = data["sweep"]
    layers = list(found["TokenCarve"])
    lines = ["| cut before layer | " + " | ".join(layers) + " |", "|---" * (len(layers) + 1) + "|"]
    for name, cells in found.items():
        lines.append(f"| {name} | " + " | ".join(interval(cells[layer]) if layer in cells else "" for layer in layers) + " |")
    full, blind = data["answers"]["all"]["full"], data["answers"]["all"]["blind"]
    return "\n".join(
        [*lines, "", f"36 of 144 tokens stay. All tokens: {interval(full)}; no picture: {interval(blind)}. {data['questions']} questions."]
    )


@if_measured
def unsupervised_methods() -> str:
    """Accuracy, and the share of what the picture adds, of every method and budget."""
    data = load(NAME)
    budgets = [str(keep) for keep in data["budgets"]]
    lines = ["| | before layer | " + " | ".join(f"{keep} | of full | of what the picture adds" for keep in budgets) + " |"]
    lines.append("|---" * (2 + 3 * len(budgets)) + "|")
    for name, found in data["methods"].items():
        cells = [part for keep in budgets for part in _cell(found["budgets"][keep])]
        lines.append(f"| {name} | {found['layer']} | " + " | ".join(cells) + " |")
    full, blind = data["answers"]["all"]["full"], data["answers"]["all"]["blind"]
    note = f"Right in per cent, of 144 tokens; 95 % intervals. All tokens: {interval(full)}; no picture: {interval(blind)}. "
    note += f"{data['questions']} questions"
    if (oracle := data["methods"].get("Oracle")) is not None:
        note += f", for the oracle {oracle['full']['n']} of them (all tokens {interval(oracle['full'])})"
    made = data["explainer"]
    note += f". The Explainer learned from {made['labels']} labels ({made['asked']} questions asked)." if made else "."
    return "\n".join([*lines, "", note])


def _cell(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (interval(found), *(interval(found[name]) if name in found else "" for name in ("of_full", "of_image")))


@if_measured
def unsupervised_correlations() -> str:
    """Spearman's correlation of effective rank and accuracy."""
    data = load(NAME)
    command = {"command": "python benchmarks/unsupervised.py", "facts": data["facts"]}
    return information_correlations({**data["information"], **command})


@if_measured
def unsupervised_cells() -> str:
    """Accuracy and effective rank of every method and budget."""
    return information_cells(load(NAME)["information"])


@if_measured
def unsupervised_picture() -> str:
    """What plots.py drew."""
    words = "Recall of the relevant tokens by layer for questions about objects and for reading, norms by layer, and accuracy by the layer "
    return f"![{words}of the cut](images/pretrained_decoder.png)"
