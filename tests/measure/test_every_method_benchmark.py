"""From parts to figures, tables and the picture of the benchmark of every method, without the model."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("typer")

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))  # not in front: tests have modules of the same names

common, every_method, tables = map(import_module, ("common", "every_method", "every_method_tables"))
pytestmark = pytest.mark.project
FAMILIES = ("colour", "word", "side", "hop")
NAMES = ("fastv", "divprune:centred=true", "pyramiddrop")
BUDGETS = (64, 32)


def answers(right: str, equivalent: float | None) -> dict[str, Any]:
    """A part with one question of each family; wrong answers differ from each other."""
    given = ["yes" if mark == "1" else f"no {equivalent}" for mark in right]
    return {"given": given, "right": right, "equivalent": equivalent, "layers": [2], "method_seconds": 0.1}


@pytest.fixture
def done() -> dict[str, Any]:
    parts = {every_method.part(every_method.FULL, 0, number): answers("1111", None) for number in range(2)}
    parts |= {every_method.part(every_method.BLIND, 0, number): answers("1000", None) for number in range(2)}
    for keep, marks in ((64, ("1110", "1100", "1111")), (32, ("1000", "1100", "0110"))):
        for place, (name, right) in enumerate(zip(NAMES, marks, strict=True)):
            parts |= {every_method.part(name, keep, number): answers(right, keep + place) for number in range(2)}
    return parts


@pytest.fixture
def written(done: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    found = every_method.figures(done, NAMES, BUDGETS, 2, FAMILIES)
    document = {"environment": {"date": "2026-11-28"}, "each": 10, "budgets": list(BUDGETS), **found}
    (tmp_path / f"{every_method.NAME}.json").write_text(json.dumps(document))
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return found


def test_rounds_are_joined_and_compared_with_the_full_model(written: dict[str, Any]) -> None:
    assert written["questions"] == 8
    cell = written["methods"]["fastv"]["64"]
    assert cell["scores"]["overall"]["share"] == 0.75
    assert cell["scores"]["reading"] == {"share": 1.0, "low": pytest.approx(0.342, abs=1e-3), "high": 1.0, "n": 2}
    assert cell["of_image"] == pytest.approx((6 - 2) / (8 - 2))
    assert cell["loyalty"]["share"] == 0.75
    assert written["methods"]["fastv"]["32"]["of_image"] == 0


def test_a_missing_part_is_no_figure(done: dict[str, Any]) -> None:
    del done[every_method.part("fastv", 32, 1)]
    with pytest.raises(KeyError, match="fastv, 32, round 2"):
        every_method.figures(done, NAMES, BUDGETS, 2, FAMILIES)
    assert every_method.figures(done, NAMES, BUDGETS, 1, FAMILIES)["questions"] == 4


def test_a_stop_leaves_whole_columns() -> None:
    order = list(every_method.parts(["a", "b"], [64, 32], 2))
    assert order[:6] == [("all tokens", 0, 0), ("no image", 0, 0), ("a", 64, 0), ("b", 64, 0), ("a", 32, 0), ("b", 32, 0)]
    assert len(order) == 12


def test_rounds_have_different_questions_of_every_kind_and_add_up_to_the_balanced_set() -> None:
    asked = every_method.balanced(2 * every_method.STEP)
    rounds = [every_method.rounds_of(asked, number) for number in range(2)]
    kinds = [sorted(sample.question.family for sample in own) for own in rounds]
    assert kinds[0] == kinds[1]
    keys = [{(sample.seed, sample.question.text) for sample in own} for own in (*rounds, asked)]
    assert keys[0] | keys[1] == keys[2]
    assert keys[0] == {(sample.seed, sample.question.text) for sample in every_method.balanced(every_method.STEP)}


def test_the_table_marks_what_chance_explains_and_names_methods(written: dict[str, Any]) -> None:
    table = tables.every_method()
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| `")}
    assert list(rows) == ["`PyramidDrop`", "`FastV`", "`DivPrune, centred`"]
    assert "3 layers" in rows["`PyramidDrop`"]
    assert "**100.0 (67.6 to 100.0)**" in rows["`PyramidDrop`"]
    assert "8 held-out questions, 10 of each kind" in table
    details = tables.every_method_details()
    assert "| `FastV` | 75.0 % | 67 % | 75.0 % | 64 | 100 % | 100 % | 100 % |" in details


def test_the_best_of_equals_computes_least() -> None:
    cells = {name: {"64": {"scores": {"overall": {"share": 0.5}}, "equivalent": cost}} for name, cost in (("a", 149), ("b", 64))}
    assert tables.best_at({"methods": cells}, "64") == "b"


def test_beyond_chance_is_not_marked(written: dict[str, Any]) -> None:
    assert tables.lost_and_won("1111111100", "0000000010") == (8, 1)
    assert tables.mcnemar(8, 1) < tables.CHANCE


def test_the_picture_has_a_panel_for_each_budget(written: dict[str, Any]) -> None:
    titles = [axes.get_title(loc="left") for axes in tables.picture().axes if axes.get_title(loc="left")]
    assert titles == ["64 of 576 tokens remain", "32 of 576 tokens remain"]
