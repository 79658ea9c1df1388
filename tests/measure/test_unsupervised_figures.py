"""From parts to figures and tables of the benchmark with a pretrained decoder, without the model."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("typer")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # not in front: tests have modules of the same names

NAMES = ("sights", "unsupervised_figures", "unsupervised_tables", "unsupervised_plots")
sights, unsupervised_figures, tables, plots = map(import_module, NAMES)
pytestmark = pytest.mark.project
LAYERS, HEADS, FINDING, HEAD = 30, 9, 17, 4


@pytest.fixture(scope="module")
def made() -> Any:
    """Four pictures, what might have been measured of them, and the figures; the signals are random but for one layer."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    shown = [sights.sight(seed) for seed in range(4)]
    parts = [_part(unsupervised_figures.MEASURES, rng, picture) for picture in shown]
    explained: list[Any] = [None] * len(shown)
    explained[1] = {
        "recall": [sights.found(own.float(), own) if own.any() else None for own in shown[1].relevant],
        "cells": {f"Oracle 0 {keep}": {"right": parts[1]["full"]["right"]} for keep in sights.BUDGETS},
    }
    figures = unsupervised_figures.figures(shown, parts, explained)
    facts = {"torch": "2", "transformers": "5", "date": "2026-11-28"}
    check = {"all tokens": {"right": "0110", "generate": "0100"}}
    document = {"facts": facts, "explainer": {"labels": 21, "asked": 48}, "check": check, "budgets": list(sights.BUDGETS), **figures}
    return shown, parts, document


def _part(measures: Any, rng: np.random.Generator, picture: Any) -> dict[str, Any]:
    count = len(picture.asked)

    def informed(right: str) -> dict[str, Any]:
        rows = [dict.fromkeys(measures, float(rng.random())) for _ in range(count)]
        return {"right": right, "hidden_states": rows, "attention_output": rows}

    recall: list[Any] = []
    for own in picture.relevant:
        if not own.any():
            recall.append(None)
            continue
        scores = torch.rand(LAYERS, HEADS, len(own))
        scores[FINDING] += 0.3 * own
        scores[FINDING, HEAD] += 9 * own
        signals = {"attention": scores.mean(1), "information": torch.rand(LAYERS, len(own)), "norm": torch.rand(LAYERS, len(own))}
        found = {name: sights.found(values, own) for name, values in signals.items()}
        recall.append({**found, "heads": sights.found(scores, own)["quarter"]})
    random = ["".join(rng.choice(list("01"), count)) for _ in range(200)]
    sinks = sights._scored(torch.rand(144, 9), torch.rand(144)) | sights._cosines(torch.rand(144, 9))
    norms = dict.fromkeys(("first", "other_text", "largest", "attention_first", "attention_visual"), 0.5)
    return {
        "families": [sample.question.family for sample in picture.asked],
        "full": informed("1" * count),
        "blind": "01" * (count // 2) + "0" * (count % 2),
        "recall": recall,
        "sinks": [norms | sinks] * LAYERS,
        "cells": {sights.key(method): informed(random.pop()) for method in sights.ways("untrained")},
    }


def test_shares_are_of_all_questions_and_the_best_layer_is_found(made: Any) -> None:
    shown, parts, document = made
    questions = sum(len(picture.asked) for picture in shown)
    assert (document["pictures"], document["questions"]) == (4, questions)
    assert document["answers"]["all"]["full"]["share"] == 1
    blind = sum(part["blind"].count("1") for part in parts)
    assert document["answers"]["all"]["blind"]["share"] == pytest.approx(blind / questions)
    found = document["recall"]["all"]["all"]
    relevant = [own for picture in shown for own in picture.relevant if own.any()]
    possible = float(np.mean([min(1, sights.TOKENS // 4 / int(own.sum())) for own in relevant]))
    best = max(range(LAYERS), key=lambda layer: found["attention"]["quarter"][layer]["value"])
    assert best == FINDING
    assert found["n"] == len(relevant)
    assert found["best_head"]["value"] == pytest.approx(possible, abs=1e-3)
    assert (found["best_head"]["layer"], found["best_head"]["head"]) == (FINDING, HEAD)
    assert found["relevance"]["n"] == sum(bool(own.any()) for own in shown[1].relevant)
    assert found["relevance"]["half"]["value"] == 1


def test_cells_compare_with_the_full_model_on_the_same_questions(made: Any) -> None:
    shown, parts, document = made
    cell = document["methods"]["FastV"]["budgets"][str(sights.QUARTER)]
    right = "".join(part["cells"][f"FastV {sights.CUT} {sights.QUARTER}"]["right"] for part in parts)
    share, blind = right.count("1") / len(right), document["answers"]["all"]["blind"]["share"]
    assert (cell["share"], cell["lost"], cell["won"]) == (pytest.approx(share), right.count("0"), 0)
    assert cell["of_full"]["share"] == pytest.approx(share)
    assert cell["of_image"]["share"] == pytest.approx((share - blind) / (1 - blind))
    oracle = document["methods"]["Oracle"]
    assert oracle["full"]["n"] == len(shown[1].asked)
    assert all(own["of_full"]["share"] == 1 for own in oracle["budgets"].values())
    assert {entry["source"] for entry in document["information"]["correlations"]} == {"hidden_states", "attention_output"}


def test_every_table_and_the_picture_show_the_figures(made: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    document = made[2]
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    shown = [getattr(tables, name) for name in dir(tables) if name.startswith("unsupervised_")]
    assert len(shown) >= 9
    assert {table() for table in shown} == {tables.MISSING}
    (tmp_path / "unsupervised.json").write_text(json.dumps(document, allow_nan=False), encoding="utf-8")
    monkeypatch.setattr(tables, "load", lambda name: json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8")))
    texts = {table.__name__: table() for table in shown}
    assert not any("nan" in text or "None" in text for text in texts.values())
    assert "Of 4 answers, with and without compression, 3 are right or wrong alike" in texts["unsupervised_answers"]
    assert f"layer {FINDING}, head {HEAD}" in texts["unsupervised_best"]
    assert "learned from 21 labels (48 questions asked)" in texts["unsupervised_methods"]
    for text in texts.values():
        rows = [line.count("|") for line in text.partition("\n\n")[0].splitlines() if line.startswith("|")]
        assert len(set(rows)) <= 1
    pytest.importorskip("matplotlib")
    assert len(plots.draw(document).axes) == 4


def test_norms_that_rule_the_score_are_seen() -> None:
    torch.manual_seed(1)
    states = torch.randn(144, 64)
    plain = sights._scored(states, states.norm(dim=-1))
    states[7] *= 200
    ruled = sights._scored(states, states.norm(dim=-1))
    assert plain["score_largest"] < 2 < 20 < ruled["score_largest"]
    assert ruled["score_directions"] < plain["score_directions"]
    assert ruled["score_without_1"] < plain["score_without_1"]
