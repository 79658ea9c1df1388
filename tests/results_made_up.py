"""Files of results as the commands write them, with made-up figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from foveate.measure.analysis.information_loss import cells_of, key
from foveate.measure.analysis.kept_states import SOURCES
from foveate.measure.analysis.results import analyse
from foveate.measure.analysis.spectrum import MEASURES
from foveate.measure.bench.records import Group, Row, Run, Timing
from foveate.measure.evaluation.results import gather
from foveate.measure.store import write_json

TASKS = ("foveate_scenes", "foveate_pope", "foveate_textvqa")


def facts(fingerprint: str = "a" * 64) -> dict[str, Any]:
    model = {
        "class": "SomeModel",
        "parameters": 6_500_000,
        "dtype": "float32",
        "device": "cpu",
        "attention": {"text": "sdpa"},
        "revision": None,
        "fingerprint": fingerprint,
    }
    machine = {"accelerator": None, "processor": "a <b>processor</b>", "threads": 1, "cores": 2}
    return {"date": "2026-11-21", "foveate": "0.1.0", "python": "3.11", "torch": "2.13", "transformers": "5.23", **machine, "model": model}


def evaluation(folder: Path, *, fingerprint: str = "a" * 64, data: str = "d1") -> Path:
    """A run of `foveate eval` with two methods at two budgets on three tasks."""
    rates = {"full": 0.9, "blind": 0.1, "tokencarve-64": 0.8, "tokencarve-16": 0.7, "random-64": 0.6, "random-16": 0.3}
    cells: dict[str, dict[str, Any]] = {}
    for setting, rate in rates.items():
        keep = setting.partition("-")[2]
        method = f"{ {'tokencarve': 'TokenCarve', 'random': 'Random'}[setting.partition('-')[0]] }(keep={keep})" if keep else None
        for place, task in enumerate(TASKS):
            right = round(20 * rate) - place
            samples = [
                {"id": f"{task} {n}", "answer": "yes" if n < right else "no", "target": "yes", "score": float(n < right)} for n in range(20)
            ]
            cells.setdefault(setting, {})[task] = {
                "score": max(right, 0) / 20,
                "questions": 20,
                "data": f"{data} {task}",
                "tokens_at_the_cut": float(keep or (0 if setting == "blind" else 576)),
                "mean_tokens_over_layers": float(keep or 576),
                "method_seconds": 0.01 if keep else 0.0,
                "seconds": 0.5,
                "method": method,
                "samples": samples,
            }
    names = {task: {"name": task.removeprefix("foveate_")} for task in TASKS}
    about = {"command": "foveate eval --suite scenes", "facts": facts(fingerprint), "settings": {"model": "demo"}, "tasks": names}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", gather(cells, about))
    return folder


def speed(path: Path, *, fingerprint: str = "a" * 64) -> Path:
    """Results of `foveate bench` for the same methods."""

    def row(name: str, kind: Any, tokens: int, prefill: float, rival: str | None = None) -> Row:
        timings = [Timing(0.05, prefill + step / 1000, 0.002 if kind == "method" else 0.0, {1: 0.05 + prefill}) for step in range(3)]
        method = {"name": name.partition("(")[0].lower(), "keep": tokens} if kind == "method" else None
        layer = None if kind == "full" else 2
        return Row(name, kind, tokens, layer, rival, method, cache_bytes=tokens * 10_000, kernels=("flash",), timings=timings)

    ideal = "ideal 64 from layer 2"
    rows = [
        row("full", "full", 576, 0.100),
        row(ideal, "ideal", 64, 0.030),
        row("TokenCarve(keep=64)", "method", 64, 0.040, ideal),
        row("Random(keep=64)", "method", 64, 0.033, ideal),
    ]
    run = Run({"model": "demo"}, "foveate bench --model demo", facts(fingerprint), {}, [Group(1, 612, 576, rows)])
    path.parent.mkdir(parents=True, exist_ok=True)
    run.save(path)
    return path


class _Asked:
    def __init__(self, seed: int) -> None:
        self.seed = seed


def analysis(folder: Path, *, fingerprint: str = "a" * 64, questions: str = "q1") -> Path:
    """Results of `foveate analyse`."""
    generator = np.random.default_rng(0)
    cells = cells_of(["tokencarve", "norm", "random"], [576, 64, 16], 2, 576)
    found = {
        cell: {
            "right": "".join(map(str, generator.integers(0, 2, 12))),
            "information": {key(source, 2, measure): generator.random(12).tolist() for source in SOURCES for measure in MEASURES},
        }
        for cell in cells
    }
    document = {
        "format": 1,
        "kind": "foveate analyse",
        "command": "foveate analyse --model demo",
        "facts": facts(fingerprint),
        "settings": {"model": fingerprint, "questions": questions, "layer": 2, "layers": [2]},
        "questions": 12,
        "scenes": 6,
        **analyse(found, [_Asked(number // 2) for number in range(12)], [2]),  # type: ignore[misc]
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "information_loss.json").write_text(json.dumps(document), encoding="utf-8")
    return folder
