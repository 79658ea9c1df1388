"""Prefill, method and decode time and key/value bytes, against the full model and the ideal, as ratios in one run.

Two models: a LLaVA-shaped one with random weights (hidden 1024, 16 layers, 36 + 576 + 40 tokens) and the embedded one.
"""

from __future__ import annotations

from collections.abc import Sequence

import typer
from common import environment, label, progress_bar, save
from rich.console import Console
from rich.table import Table

import foveate.demo
from foveate import FastV, Method, Pool, Random, TokenCarve
from foveate.measure.speed import Figure, Measurement, llava_shaped, measure, prompt_for

BUDGETS = (192, 128, 64)
BEFORE, AFTER = 36, 40


def contenders() -> list[Method]:
    """TokenCarve at every budget, the others at one."""
    exact = [TokenCarve(keep=keep) for keep in BUDGETS]
    return [*exact, TokenCarve(keep=128, information="fast"), FastV(keep=128), Random(keep=128), Pool(keep=128)]


def table(title: str, measurements: Sequence[Measurement]) -> Table:
    """One model's figures for the terminal."""
    heads = ("variant", "visual tokens", "prefill", "of full", "over ideal", "method, of full prefill", "decode, of full", "KV MiB")
    view = Table(*heads, title=title)
    for m in measurements:
        view.add_row(
            label(m.name),
            str(m.tokens),
            f"{m.prefill.median * 1e3:.0f} ms",
            spread(m.prefill_ratio, ".3f"),
            spread(m.over_ideal, "+.1%"),
            spread(m.method_share, ".2%"),
            spread(m.decode_ratio, ".3f"),
            f"{m.cache_bytes / 2**20:.1f}",
        )
    return view


def spread(figure: Figure | None, style: str) -> str:
    """Median and quartiles."""
    return "" if figure is None else f"{figure.median:{style}} ({figure.low:{style}} .. {figure.high:{style}})"


def main(rounds: int = 15, new_tokens: int = 8, hidden: int = 1024, layers: int = 16) -> None:
    """Measure both models and write benchmarks/results/speed.json."""
    console = Console()
    demo, _ = foveate.demo.load()
    models = {
        f"LLaVA-shaped, hidden {hidden}, {layers} layers, random weights, float32": llava_shaped(hidden, layers),
        "embedded model, float32": demo,
    }
    results = {}
    for title, model in models.items():
        with progress_bar() as progress:
            methods = contenders()
            task = progress.add_task(title, total=(rounds + 1) * (1 + len(methods) + len(BUDGETS)))
            inputs = prompt_for(model, BEFORE, AFTER)
            found = measure(
                model, inputs, methods, rounds=rounds, new_tokens=new_tokens, progress=lambda bar=progress, t=task: bar.advance(t)
            )
        console.print(table(title, found))
        results[title] = [m.to_dict() for m in found]
    settings = {"rounds": rounds, "new_tokens": new_tokens, "text_before": BEFORE, "text_after": AFTER}
    console.print(f"written to {save('speed', {'settings': settings, 'models': results}).name}; measured on {environment()['processor']}")


if __name__ == "__main__":
    typer.run(main)
