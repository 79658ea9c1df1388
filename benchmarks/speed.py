"""Prefill, method and decode time and key/value bytes, against the full model and the ideal, as ratios in one run.

Two models: random weights in LLaVA-1.5-7B's shape at hidden 1024 and 16 layers, and the embedded one, each with 36 + 576 + 40 tokens.
The measuring is that of `foveate bench`; this script only runs it for the pages.
"""

from __future__ import annotations

from typing import Any

import torch
import typer
from common import progress_bar, save
from PIL import Image
from rich.console import Console

import foveate.demo
from foveate import FastV, Method, Pool, Random, TokenCarve
from foveate.cli.bench_tables import memory_table, prefill_table
from foveate.measure.bench_records import Group, Row, figures
from foveate.measure.facts import facts
from foveate.measure.prompts import prompt_like, random_prompt
from foveate.measure.shapes import Size, build, find_shape
from foveate.measure.speed import measure, runs_before

BUDGETS = (192, 128, 64)
BEFORE, AFTER = 36, 40

Subject = tuple[torch.nn.Module, dict[str, torch.Tensor]]


def contenders() -> list[Method]:
    """TokenCarve at every budget, the others at one."""
    exact = [TokenCarve(keep=keep) for keep in BUDGETS]
    return [*exact, TokenCarve(keep=128, information="fast"), FastV(keep=128), Random(keep=128), Pool(keep=128)]


def shaped(hidden: int, layers: int) -> Subject:
    """Random weights and a random prompt."""
    shape = find_shape("llava-1.5-7b").scaled(Size(hidden=hidden, layers=layers))
    model = build(shape, device=torch.device("cpu"), dtype=torch.float32)
    return model, random_prompt(model, shape.picture, before=BEFORE, after=AFTER)


def embedded() -> Subject:
    """The embedded model, and random words around a random image."""
    model, processor = foveate.demo.load()
    inputs = processor(images=Image.new("RGB", (336, 336)), text=foveate.demo.prompt("what does the sign say?"), return_tensors="pt")
    return model, prompt_like(model, inputs, processor.tokenizer.all_special_ids, before=BEFORE, after=AFTER)


def entry(group: Group, row: Row, new_tokens: int) -> dict[str, Any]:
    """One row as the pages show it."""
    found = figures(group, row)
    shown = {
        "prefill": "prefill",
        "prefill_ratio": "prefill_of_full",
        "over_ideal": "over_ideal",
        "method_share": "method_of_full_prefill",
        "decode": f"decode {new_tokens}",
        "decode_ratio": f"decode_of_full {new_tokens}",
    }
    cells = {name: vars(found[figure]) if figure in found else None for name, figure in shown.items()}
    return {"name": row.name, "tokens": row.tokens, **cells, "cache_bytes": row.cache_bytes}


def main(rounds: int = 15, new_tokens: int = 9, hidden: int = 1024, layers: int = 16) -> None:
    """Measure both models and write benchmarks/results/speed.json."""
    console, methods, results = Console(width=160), contenders(), {}
    subjects = {
        f"LLaVA-shaped, hidden {hidden}, {layers} layers, random weights, float32": lambda: shaped(hidden, layers),
        "embedded model, float32": embedded,
    }
    for title, subject in subjects.items():
        model, inputs = subject()
        with progress_bar() as progress:
            task = progress.add_task(title, total=runs_before(rounds, methods, 576))
            group = measure(
                model,
                inputs,
                methods,
                rounds=rounds,
                new_tokens=(1, new_tokens),
                progress=lambda bar=progress, t=task: bar.advance(t),
            )
        console.print(title, prefill_table(group), memory_table(group))
        results[title] = [entry(group, row, new_tokens) for row in group.rows]
    settings = {"rounds": rounds, "new_tokens": new_tokens, "text_before": BEFORE, "text_after": AFTER}
    console.print(f"written to {save('speed', {'settings': settings, 'models': results}).name}; measured on {facts()['processor']}")


if __name__ == "__main__":
    typer.run(main)
