"""The tasks that foveate brings: held-out scenes, and stand-ins in the columns of public data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from foveate.errors import InputError, UnknownNameError
from foveate.measure.evaluation.suites import BENCHMARKS, SUITES, find_suite
from foveate.measure.evaluation.tasks import scenes
from foveate.measure.scenes import balanced

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")

import pyarrow.parquet
from lmms_eval.tasks import TaskManager

from foveate.measure.evaluation.drawn_tasks import DRAWN, draw_task


def test_the_rows_are_the_evaluation_set_with_families_in_turn() -> None:
    written = [json.loads(line) for line in scenes.ROWS.read_text(encoding="utf-8").splitlines()]
    assert len(written) == 2080
    assert written[:26] == scenes.rows(scenes.in_turn(balanced(2)))
    assert len({row["family"] for row in written[:13]}) == 13


def test_an_answer_is_right_as_a_whole_and_reading_counts_once_more() -> None:
    row = {"answer": "ab12", "family": "word"}
    assert scenes.score(row, [" ab12\n"]) == {"exact_match": 1.0, "reading": 1.0}
    assert scenes.score({**row, "family": "colour"}, ["ab1"]) == {"exact_match": 0.0}


def test_questions_about_other_scenes_are_refused() -> None:
    with pytest.raises(InputError, match="version 1"):
        scenes.picture({"scenes": 1, "seed": 0})


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    for name in DRAWN:
        draw_task(name, folder, 12)
    return folder


COLUMNS = {
    "foveate_pope": ["id", "question_id", "question", "answer", "image_source", "image", "category"],
    "foveate_textvqa": [
        "image_id", "question_id", "question", "question_tokens", "image", "image_width", "image_height", "flickr_original_url",
        "flickr_300k_url", "answers", "image_classes", "set_name", "ocr_tokens",
    ],
    "foveate_mme": ["question_id", "image", "question", "answer", "category"],
}  # fmt: skip


@pytest.mark.parametrize("name", DRAWN)
def test_a_stand_in_has_the_public_columns(drawn: Path, name: str) -> None:
    assert pyarrow.parquet.read_schema(drawn / f"{name}.parquet").names == COLUMNS[name]


@pytest.mark.parametrize(("name", "code"), [("foveate_pope", "pope"), ("foveate_textvqa", "textvqa"), ("foveate_mme", "mme")])
def test_a_stand_in_is_scored_by_the_packaged_code(drawn: Path, name: str, code: str) -> None:
    manager = TaskManager("ERROR", include_path=str(drawn), include_defaults=False)
    config = manager._get_config(name)
    assert config["process_results"].__name__ == f"{code}_process_results"
    assert f"tasks/{code}/utils.py" in Path(config["process_results"].__code__.co_filename).as_posix()


def test_every_pair_has_one_yes_and_one_no_about_the_same_picture(drawn: Path) -> None:
    rows = pyarrow.parquet.read_table(drawn / "foveate_mme.parquet").to_pylist()
    for yes, no in zip(rows[::2], rows[1::2], strict=True):
        assert (yes["answer"], no["answer"]) == ("Yes", "No")
        assert yes["question_id"] == no["question_id"]
        assert yes["image"] == no["image"]
        assert yes["question"] != no["question"]
    assert len({row["category"] for row in rows}) > 2


def test_an_unknown_stand_in_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="foveate_mme"):
        draw_task("foveate_gqa", tmp_path)


def test_every_task_of_a_suite_is_one_of_lmms_evals_or_ours() -> None:
    tasks = {task for names in SUITES.values() for task in names}
    packaged = {task for task in tasks if BENCHMARKS[task].needs == "download" and BENCHMARKS[task].task}
    assert packaged <= set(TaskManager("ERROR").all_tasks)
    assert [benchmark.name for benchmark in find_suite("Stand_ins")] == ["POPE on scenes", "TextVQA on scenes", "MME on scenes"]
    with pytest.raises(UnknownNameError, match="did you mean 'tokencarve'"):
        find_suite("tokencarv")
