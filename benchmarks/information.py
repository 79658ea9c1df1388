"""How well the fast information scores agree with the exact ones, and what both cost compared with a full SVD.

python benchmarks/information.py                  # writes benchmarks/results/information.json
python benchmarks/information.py --device cuda --out my.json
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

import foveate
import foveate.demo
from foveate import Plan
from foveate.engine.clock import seconds as now
from foveate.files.writing import make_folder, write_whole
from foveate.methods import FastV, Pool, Random, TokenCarve, information_contribution
from foveate.view import View

ROOT = Path(__file__).parents[1]
TOKENS, WIDTHS = (144, 576, 2304), (192, 1024, 4096)
BEST = (192, 128, 64)
SVD_LIMIT = 1e10
"""n * d * min(n, d) from which on a full SVD on a CPU takes longer than the rest of this benchmark."""
SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "power 0.5": lambda k: k**-0.5,
    "power 1": lambda k: k**-1.0,
    "power 2": lambda k: k**-2.0,
    "exponential 20": lambda k: torch.exp(-k / 20),
    "exponential 100": lambda k: torch.exp(-k / 100),
}


def main(
    out: Annotated[Path, typer.Option(help="JSON file to write")] = ROOT / "benchmarks" / "results" / "information.json",
    golden: Annotated[Path, typer.Option(help="folder of .npz files: hidden, attention")] = ROOT / "tests" / "data" / "golden",
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
    scenes: Annotated[int, typer.Option(help="held-out scenes of the embedded model, one question each")] = 20,
    seconds: Annotated[float, typer.Option(help="longest time to repeat one measurement")] = 0.3,
) -> None:
    """Measure agreement and time, print both, write both."""
    torch.set_num_threads(threads)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {threads} thread(s)",
        "machine": platform.machine(),
        "torch": torch.__version__,
        "agreement": [
            mean("embedded model, held-out scenes", [agreement("", *case) for case in trained(device, scenes)]),
            *(agreement(name, states.to(device), attention.to(device)) for name, states, attention in inputs(golden)),
        ],
        "information_ms": [times(n, d, device, seconds) for n in TOKENS for d in WIDTHS],
        "plan_ms": plan_times(device, seconds),
    }
    make_folder(out.parent)
    write_whole(out, json.dumps(result, indent=2) + "\n")
    show(result)


def inputs(golden: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, states (n, d) and attention (n,): hidden states of a model, then synthetic spectra."""
    for path in sorted(golden.glob("*.npz")):
        with np.load(path) as case:
            yield path.stem, torch.from_numpy(case["hidden"]), torch.from_numpy(case["attention"])
    for name, singular in SPECTRA.items():
        for n, d in ((576, 1024), (576, 192), (2304, 1024)):
            generator = torch.Generator().manual_seed(0)
            k = torch.arange(1, min(n, d) + 1).double()
            left, right = (torch.linalg.qr(torch.randn(m, len(k), generator=generator, dtype=torch.float64)).Q for m in (n, d))
            yield f"{name}, {n} x {d}", (left * singular(k) @ right.mT).float(), torch.rand(n, generator=generator)


def trained(device: str, scenes: int) -> list[tuple[Tensor, Tensor]]:
    """States (n, d) and attention (n,) before layer 2 of the embedded model, for the first question of some scenes."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Spy(FastV):
        def plans(self, views: Sequence[View]) -> list[Plan]:
            seen.extend((view.states, view.signal("last_attention")) for view in views)
            return super().plans(views)

    model, processor = foveate.demo.load()
    with foveate.compress(model.to(device), Spy(keep=1)), torch.no_grad():
        for seed in range(scenes):
            scene = foveate.demo.scene(seed, "held_out")
            text = foveate.demo.prompt(scene.questions[0].text)
            model(**processor(images=scene.image, text=text, return_tensors="pt").to(device))
    return seen


def mean(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row with the means of several."""
    means = {key: round(sum(row[key] for row in rows) / len(rows), 4) for key in rows[0] if key != "input"}
    return {"input": f"{name} (mean of {len(rows)})", **means, "n": rows[0]["n"], "d": rows[0]["d"]}


def agreement(name: str, states: Tensor, attention: Tensor) -> dict[str, Any]:
    """Overlap of the best tokens by information alone and of what the whole method keeps; rank correlation; scale."""
    exact, fast = information_contribution(states), information_contribution(states, "fast")
    n = len(states)
    row: dict[str, Any] = {"input": name, "n": n, "d": states.shape[1]}
    ranks = torch.stack([scores.argsort().argsort().double() for scores in (exact, fast)])
    row["spearman"] = round(float(torch.corrcoef(ranks)[0, 1]), 4)
    row["mean_ratio"] = round(float(fast.mean() / exact.mean()), 4)
    view = View(states, (1, 1, n), last_attention=attention)
    for best in BEST:
        if best < n:
            row[f"top_{best}"] = overlap(exact.topk(best).indices, fast.topk(best).indices)
            plans = [TokenCarve(best, information=kind).plan(view) for kind in ("exact", "fast")]  # type: ignore[arg-type]
            row[f"kept_{best}"] = overlap(plans[0].kept, plans[1].kept)
    return row


def overlap(first: Tensor, second: Tensor) -> float:
    """Share of the indices that two equally long sets have in common."""
    return round(len(set(first.tolist()) & set(second.tolist())) / len(first), 4)


def times(n: int, d: int, device: str, seconds: float) -> dict[str, Any]:
    """Shortest milliseconds of exact and fast scores, alone and in a batch of four, and of a float32 SVD."""
    states = decaying(4, n, d).to(device)
    one = states[0]
    row: dict[str, Any] = {"n": n, "d": d}
    row["exact"] = best_ms(lambda: information_contribution(one), device, seconds)
    row["fast"] = best_ms(lambda: information_contribution(one, "fast"), device, seconds)
    row["fast_batch_4"] = best_ms(lambda: information_contribution(states, "fast"), device, seconds)
    if n * d * min(n, d) < SVD_LIMIT or device == "cuda":
        row["svd"] = best_ms(lambda: torch.linalg.svd(one, full_matrices=False), device, seconds)
    return row


def plan_times(device: str, seconds: float) -> dict[str, float]:
    """Shortest milliseconds from a view of 576 tokens of width 1024 to its plan, 128 tokens kept."""
    states = decaying(1, 576, 1024)[0].to(device)
    attention = torch.rand(576, generator=torch.Generator().manual_seed(1)).to(device)
    view = View(states, (1, 24, 24), last_attention=attention)
    methods = {
        "TokenCarve": TokenCarve(128),
        "TokenCarve, fast": TokenCarve(128, information="fast"),
        "TokenCarve, attention alone": TokenCarve(128, attention_weight=1),
        "FastV": FastV(128),
        "Random": Random(128),
        "Pool": Pool(128),
    }
    return {name: best_ms(lambda method=method: method.plan(view), device, seconds) for name, method in methods.items()}  # type: ignore[misc]


def decaying(b: int, n: int, d: int) -> Tensor:
    """Random states (b, n, d) whose columns decay by a power law, as those of a trained model do."""
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(0)) * torch.arange(1, d + 1).float() ** -0.7


def best_ms(call: Callable[[], object], device: str, seconds: float) -> float:
    """Shortest time of a call in milliseconds, on a CPU the processor's: other work on the machine can only add to it."""
    clock = time.process_time if device == "cpu" else lambda: now(torch.device(device))
    taken: list[float] = []
    while not taken or (sum(taken) < seconds and len(taken) < 200):
        start = clock()
        call()
        taken.append(clock() - start)
    return round(1e3 * min(taken), 3)


def show(result: dict[str, Any]) -> None:
    """Print the three tables."""
    console = Console(width=160)
    for title in ("agreement", "information_ms"):
        columns = list(dict.fromkeys(key for row in result[title] for key in row))
        table = Table(*columns, title=f"{title.replace('_', ' ')} ({result['device']})")
        for row in result[title]:
            table.add_row(*(str(row.get(column, "")) for column in columns))
        console.print(table)
    table = Table("method", "ms", title="plan, 576 x 1024 -> 128")
    for name, value in result["plan_ms"].items():
        table.add_row(name, str(value))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
