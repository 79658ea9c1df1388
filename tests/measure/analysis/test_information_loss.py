"""Cells of the analysis, their questions, and the conclusions from known results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from foveate.errors import BudgetError, InputError, UnknownNameError
from foveate.measure.analysis.controls import Norm
from foveate.measure.analysis.information_loss import FULL, AnalysisCell, AnalysisFolder, cells_of, key, questions
from foveate.measure.analysis.kept_states import SOURCES
from foveate.measure.analysis.results import analyse
from foveate.measure.analysis.spectrum import MEASURES
from foveate.methods import methods
from foveate.view import View

pytestmark = pytest.mark.one_version

LAYERS = [2]


def test_the_norm_control_keeps_the_longest_states_and_is_no_method_of_the_library() -> None:
    states = torch.tensor([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0], [0.5, 0.5]])
    assert Norm(2).plan(View(states, (1, 2, 2))).kept.tolist() == [1, 2]
    assert Norm.name not in methods()


def test_every_method_meets_every_budget_and_the_full_model_comes_once() -> None:
    found = cells_of(["TokenCarve", "random", "norm"], [576, 16, 64], 2, 576)
    assert found[0] == AnalysisCell(FULL, 576)
    assert Counter((cell.method, cell.seed) for cell in found[1:]) == {
        ("tokencarve", None): 2,
        ("random", 0): 2,
        ("random", 1): 2,
        ("norm", None): 2,
    }
    assert len({cell.name for cell in found}) == len(found)
    assert str(AnalysisCell("random", 64, 1).build(3)) == "Random(keep=64, layer=3, seed=1)"
    assert AnalysisCell(FULL, 576).build(2) is None


@pytest.mark.parametrize(
    ("names", "budgets", "seeds", "error", "words"),
    [
        (["tokencarv", "pool"], [64], 1, UnknownNameError, "tokencarve"),
        (["pool", "fastv"], [577], 1, BudgetError, "576"),
        (["pool", "fastv"], [0], 1, BudgetError, "keep=0"),
        (["pool", "pool"], [64], 1, InputError, "at least two methods"),
        (["pool", "fastv"], [576], 1, InputError, "budgets below"),
        (["pool", "random"], [64], 0, InputError, "seeds"),
    ],
)
def test_what_cannot_be_compared_is_refused(names: list[str], budgets: list[int], seeds: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cells_of(names, budgets, seeds, 576)


@pytest.mark.parametrize("count", [2, 13, 20])
def test_questions_are_spread_over_families_and_scenes(count: int) -> None:
    asked = questions(count)
    assert len(asked) == count
    counts = Counter(sample.question.family for sample in asked)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({sample.seed for sample in asked}) > count / 3


def test_a_single_question_has_no_interval() -> None:
    with pytest.raises(InputError, match="at least 2"):
        questions(1)


def test_finished_cells_are_found_again_and_other_settings_refused(tmp_path: Path) -> None:
    done = AnalysisFolder(tmp_path / "run", {"model": "a", "layers": [1, 2]})
    cell = AnalysisCell("pool", 64).name
    assert cell not in done
    done[cell] = found = {"right": "01", "tokens": 64.0, "information": {"a": [0.5, 1.5]}}
    again = AnalysisFolder(tmp_path / "run", {"model": "a", "layers": [1, 2]})
    assert again[cell] == found
    with pytest.raises(InputError, match=r"layers was \[1, 2\] and is \[2\]"):
        AnalysisFolder(tmp_path / "run", {"model": "a", "layers": [2]})


class _Asked:
    def __init__(self, seed: int) -> None:
        self.seed = seed


def results(link: float, noise: float = 0.0) -> tuple[dict[AnalysisCell, dict[str, Any]], list[Any]]:
    """Cells in which information is `link` times the accuracy of the method, plus an effect of the budget, plus noise."""
    generator = np.random.default_rng(0)
    asked = [_Asked(number // 2) for number in range(40)]
    found: dict[AnalysisCell, dict[str, Any]] = {}
    cells = cells_of(["tokencarve", "pool", "norm", "random"], [576, 128, 32], 2, 576)
    skill = {"full": 0.95, "tokencarve": 0.9, "norm": 0.2, "pool": 0.5, "random": 0.65}
    for cell in cells:
        right = generator.random(40) < skill[cell.method] * cell.keep**0.02 / 1.2
        values = link * right + cell.keep + noise * generator.random(40)
        information = {key(source, 2, measure): values.tolist() for source in SOURCES for measure in MEASURES}
        found[cell] = {"right": "".join("01"[int(yes)] for yes in right), "information": information}
    return found, asked


def entry(document: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in document["correlations"] if each["measure"] == "effective_rank")


def test_information_that_goes_with_right_answers_shows_at_equal_budgets() -> None:
    found = entry(analyse(*results(link=5.0), LAYERS))
    for scope in ("equal_budget", "equal_question", "equal_draws"):
        assert found[scope]["pearson"]["value"] == pytest.approx(1)
    assert found["equal_budget"]["p_over_methods"] <= 2 / 24


def test_information_that_only_the_budget_brings_shows_over_all_cells_alone() -> None:
    # The longer states are kept, the fewer answers are right: the budget hides it in one scope only.
    found = entry(analyse(*results(link=-5.0), LAYERS))
    assert found["equal_budget"]["spearman"]["value"] < -0.9
    assert found["equal_question"]["pearson"]["value"] == pytest.approx(-1)
    assert found["cells"]["pearson"]["value"] > found["equal_budget"]["pearson"]["value"] + 0.5


def test_a_correlation_due_to_one_method_shows_when_it_is_omitted() -> None:
    found, asked = results(link=0.0)
    for cell, result in found.items():
        # the worst method holds the least, and the others' information goes against their accuracy
        rank = {"norm": 0, "tokencarve": 1, "random": 2, "pool": 3, FULL: 4}[cell.method]
        result["information"] = {name: [float(rank)] * 40 for name in result["information"]}
    without = entry(analyse(found, asked, LAYERS))["equal_budget"]["without"]
    assert without["norm"]["value"] == pytest.approx(-1)
    assert without["pool"]["value"] > 0
    assert set(without) == {"tokencarve", "pool", "norm", "random"}


def test_noise_has_an_interval_around_zero() -> None:
    found = entry(analyse(*results(link=0.0, noise=1.0), LAYERS))
    for scope in ("equal_question", "equal_draws"):
        assert found[scope]["pearson"]["low"] < 0 < found[scope]["pearson"]["high"]


def test_random_choices_count_as_one_method() -> None:
    document = analyse(*results(link=1.0), LAYERS)
    assert [(cell["method"], cell["keep"]) for cell in document["cells"]].count(("random", 32)) == 1
    assert entry(document)["cells"]["points"] == 4 * 2 + 1
    assert document["full"]["keep"] == 576
