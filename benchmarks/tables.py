"""Puts the figures of benchmarks/results into README.md and the pages of docs, between their markers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import typer
from adaptive_tables import adaptive
from common import interval, load, percent
from every_method_tables import every_method, every_method_details
from explainability_tables import ablations, at_the_input, foretold, kept_accuracy, relevance_memory, resolutions
from gpu_tables import gpu, gpu_short
from information_tables import information_cells, information_correlations
from photograph_tables import photographs
from pretrained_tables import pretrained_answers, pretrained_curve
from readme_tables import family_table, headline, method_table, pretrained_short
from serving_tables import serving, serving_abuse, serving_accuracy, serving_shared
from sizing_tables import sizing
from speed_tables import host, layout, long_outputs, savings, selection, speed
from unsupervised_tables import (
    unsupervised_answers,
    unsupervised_best,
    unsupervised_cells,
    unsupervised_correlations,
    unsupervised_layers,
    unsupervised_methods,
    unsupervised_picture,
    unsupervised_recall,
    unsupervised_scores,
    unsupervised_sinks,
)

from foveate.files.writing import write_whole
from foveate.measure.evaluation.suites import BENCHMARKS, SUITES
from foveate.measure.statistics import mcnemar

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/benchmarks.md",
    "docs/embedded_model.md",
    "docs/methods.md",
    "docs/evaluation.md",
    "docs/explainability.md",
    "docs/gpu.md",
    "docs/information_loss.md",
    "docs/pretrained_decoder.md",
    "docs/serving.md",
)


def curves(part: str, budgets: list[int]) -> str:
    """Share of right answers to one part of the held-out questions, with 95 % intervals."""
    data = load("accuracy")
    lines = ["| | " + " | ".join(f"{keep}" for keep in budgets) + " |", "|---" * (len(budgets) + 1) + "|"]
    for name, cells in data["methods"].items():
        lines.append(f"| {name} | " + " | ".join(interval(cells[str(keep)]["scores"][part]) for keep in budgets) + " |")
    full, blind = data["full"]["scores"][part], data["no_image"]["scores"].get(part)
    note = (
        f"All 576 tokens: {interval(full)}; no image in the prompt: {interval(blind) if blind else 'not measured'}. {full['n']} questions"
    )
    return "\n".join(lines) + f"\n\n{note}, exact match, cut before layer {data['layer']}."


def accuracy() -> str:
    """The README's budgets."""
    return f"{curves('overall', [192, 128, 64])} `python benchmarks/accuracy.py --each {load('accuracy')['each']}`."


def accuracy_curves() -> str:
    """Every budget, over all questions and over the parts where the choice of tokens matters most."""
    data = load("accuracy")
    parts = {
        "overall": "All questions",
        "reading": "Reading (words and numbers)",
        "small things": "Small things, reading aside",
        "hop": "Multi-hop",
    }
    return "\n\n".join(f"**{title}**\n\n{curves(part, data['budgets'])}" for part, title in parts.items())


def families() -> str:
    """The same by question family and part, at one budget."""
    data = load("accuracy")
    keep = str(data["by_family_at"])
    columns = {"all 576": data["full"], **{name: cells[keep] for name, cells in data["methods"].items()}, "no image": data["no_image"]}
    names = [name for name in data["full"]["scores"] if name != "overall"]
    lines = ["| question | n | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for family in names:
        cells = " | ".join(percent(result["scores"][family]["share"]) for result in columns.values())
        lines.append(f"| {family} | {data['full']['scores'][family]['n']} | {cells} |")
    return "\n".join(lines) + f"\n\nAt {keep} of 576 visual tokens."


def winners() -> str:
    """The best method at each budget, and whether each other one differs from it beyond chance on the same questions."""
    data = load("accuracy")
    lines = ["| visual tokens | best | worse by points (questions lost / won), exact McNemar test |", "|---|---|---|"]
    for keep in data["budgets"]:
        ranked = sorted(
            ((cells[str(keep)], name) for name, cells in data["methods"].items()), key=lambda pair: -pair[0]["scores"]["overall"]["share"]
        )
        (best, winner), others = ranked[0], ranked[1:]
        cells = []
        for other, name in others:
            lost = sum(a > b for a, b in zip(best["right"], other["right"], strict=True))
            won = sum(a < b for a, b in zip(best["right"], other["right"], strict=True))
            cells.append(f"{name} {(lost - won) / len(best['right']) * 100:.1f} ({lost} / {won}, {chance(mcnemar(lost, won))})")
        lines.append(f"| {keep} | {winner} {best['scores']['overall']['share'] * 100:.1f} % | {'; '.join(cells)} |")
    return "\n".join(lines)


def chance(p: float) -> str:
    """A p-value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def agreement() -> str:
    """How well fast information scores agree with exact ones."""
    rows = [row for row in load("information")["agreement"] if "top_192" in row]
    lines = ["| states | n x d | rank correlation | top 192 / kept | top 128 / kept | top 64 / kept |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = " | ".join(f"{row[f'top_{k}'] * 100:.1f} / {row[f'kept_{k}'] * 100:.1f} %" for k in (192, 128, 64))
        lines.append(f"| {row['input'].split(',')[0]} | {row['n']} x {row['d']} | {row['spearman']:.3f} | {cells} |")
    return "\n".join(lines)


def information_times() -> str:
    """Milliseconds of information scores and of whole plans."""
    data = load("information")
    lines = ["| n x d | exact | fast | full SVD, float32 |", "|---|---|---|---|"]
    for row in data["information_ms"]:
        svd = f"{row['svd']:.1f}" if "svd" in row else "not measured"
        lines.append(f"| {row['n']} x {row['d']} | {row['exact']:.1f} | {row['fast']:.1f} | {svd} |")
    plans = ", ".join(f"{name} {value:.2g}" for name, value in data["plan_ms"].items())
    note = f"Shortest of many runs in milliseconds of processor time; {data['device']}, torch {data['torch']}, float32 states."
    note += f" From a view of 576 x 1024 to a plan of 128 tokens: {plans}."
    return "\n".join(lines) + f"\n\n{note} `python benchmarks/information.py`."


def two_questions() -> str:
    """The second of two questions about a scene, by where its choice of tokens comes from."""
    data = load("two_questions")
    ways = list(data["full"])
    lines = ["| | tokens | " + " | ".join(ways) + " |", "|---" * (len(ways) + 2) + "|"]
    rows = [("full", 576, data["full"]), *((name, int(keep), cells[keep]) for name, cells in data["methods"].items() for keep in cells)]
    for name, keep, cells in rows:
        shown = []
        for way in ways:
            cell = cells[way]
            lost = f"; {cell['lost']} lost, {cell['won']} won, {chance(cell['mcnemar_p'])}" if cell["lost"] or cell["won"] else ""
            shown.append(f"{interval(cell)}{lost}")
        lines.append(f"| {name} | {keep} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + (
        f"\n\n{data['scenes']} scenes, two questions each, the second one scored by exact match; lost and won against the fresh prefill "
        f"on the same questions, exact McNemar test. `python benchmarks/two_questions.py --scenes {data['scenes']} "
        f"--budgets {','.join(map(str, data['budgets']))} --methods {','.join(data['methods'])}`, {data['environment']['date']}."
    )


def suites() -> str:
    """The data sets that papers use, and their names in lmms-eval."""
    lines = ["| suite | data set | lmms-eval's task | |", "|---|---|---|---|"]
    for suite, tasks in SUITES.items():
        for place, task in enumerate(tasks):
            each = BENCHMARKS[task]
            remarks = [each.why, "scored by a judge through an API" if each.judge else "", "video" if each.video else ""]
            shown = f"`{each.task}`" if each.task else "none"
            lines.append(f"| {f'`{suite}`' if not place else ''} | {each.name} | {shown} | {'; '.join(filter(None, remarks))} |")
    return "\n".join(lines)


SECTIONS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "method_table": method_table,
    "family_table": family_table,
    "speed": speed,
    "savings": savings,
    "accuracy": accuracy,
    "accuracy_curves": accuracy_curves,
    "every_method": every_method,
    "every_method_details": every_method_details,
    "families": families,
    "winners": winners,
    "two_questions": two_questions,
    "photographs": photographs,
    "pretrained_answers": pretrained_answers,
    "pretrained_curve": pretrained_curve,
    "pretrained_short": pretrained_short,
    "suites": suites,
    "adaptive": adaptive,
    "agreement": agreement,
    "information_times": information_times,
    "relevance_memory": relevance_memory,
    "kept_accuracy": kept_accuracy,
    "at_the_input": at_the_input,
    "foretold": foretold,
    "ablations": ablations,
    "selection": selection,
    "long_outputs": long_outputs,
    "host": host,
    "layout": layout,
    "resolutions": resolutions,
    "information_cells": information_cells,
    "information_correlations": information_correlations,
    "gpu": gpu,
    "gpu_short": gpu_short,
    "sizing": sizing,
    "serving": serving,
    "serving_shared": serving_shared,
    "serving_accuracy": serving_accuracy,
    "serving_abuse": serving_abuse,
    "unsupervised_answers": unsupervised_answers,
    "unsupervised_picture": unsupervised_picture,
    "unsupervised_recall": unsupervised_recall,
    "unsupervised_best": unsupervised_best,
    "unsupervised_sinks": unsupervised_sinks,
    "unsupervised_scores": unsupervised_scores,
    "unsupervised_layers": unsupervised_layers,
    "unsupervised_methods": unsupervised_methods,
    "unsupervised_correlations": unsupervised_correlations,
    "unsupervised_cells": unsupervised_cells,
}


def fill(text: str) -> str:
    """Replace the text between `<!-- figures: NAME -->` and `<!-- end -->`."""

    def section(match: re.Match[str]) -> str:
        return f"{match[1]}\n{SECTIONS[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- figures: (\w+) -->)\n.*?(<!-- end -->)", section, text, flags=re.DOTALL)


def main(check: bool = False) -> None:
    """Rewrite the pages, or with --check only report whether they are up to date (exit code 1 if not)."""
    for page in PAGES:
        path = ROOT / page
        old = path.read_text(encoding="utf-8")
        new = fill(old)
        if check and new != old:
            typer.echo(f"{page} does not show the figures of benchmarks/results; run: python benchmarks/tables.py", err=True)
            raise typer.Exit(1)
        write_whole(path, new)


if __name__ == "__main__":
    typer.run(main)
