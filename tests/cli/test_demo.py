"""`foveate demo`, and `foveate ask` on the embedded model."""

import sys
from pathlib import Path

import pytest
from PIL import Image
from small_model import Run

import foveate.demo
from foveate.demo.scenes import backgrounds

WEIGHTS = Path(foveate.demo.__file__).parent / "weights" / "model.safetensors"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_file(), reason="the demo model's weights are not in this checkout")


def test_a_scene_is_written_with_its_questions(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    result = run("demo", "scene", path, "--seed", 3)
    made = foveate.demo.scene(3, "held_out")
    assert result.code == 0
    assert Image.open(path).tobytes() == made.image.tobytes()
    for question in made.questions:
        assert question.text in result.out
    data = run("demo", "scene", path, "--seed", 3, "--json").data
    assert [(entry["question"], entry["answer"]) for entry in data["questions"]] == [(q.text, q.answer) for q in made.questions]


def test_a_scene_that_cannot_be_written_is_refused(run: Run, tmp_path: Path) -> None:
    result = run("demo", "scene", tmp_path / "nope" / "scene.png")
    assert result.code == 1
    assert "there is no folder" in result.err


def test_without_scikit_learn_one_line_names_the_extra(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    backgrounds.photographs.cache_clear()
    backgrounds.digits.cache_clear()
    result = run("demo", "scene", tmp_path / "scene.png", "--seed", 987654)
    assert result.code == 1
    assert "pip install 'foveate[demo]'" in result.err


def test_training_resumes_where_it_ended_and_refuses_another_recipe(run: Run, tmp_path: Path) -> None:
    short = ["demo", "train", tmp_path / "run", "--batch", 4, "--device", "cpu", "--card-questions", 2]
    assert run(*short, "--steps", 1, 1).code == 0
    again = run(*short, "--steps", 1, 1)
    assert again.code == 0
    assert f"written: {tmp_path / 'run' / 'weights'}" in again.out
    assert "held-out" in (tmp_path / "run" / "weights" / "README.md").read_text(encoding="utf-8")
    other = run(*short, "--steps", 2, 2)
    assert other.code == 1
    assert "another recipe" in other.err


def test_hours_and_steps_exclude_each_other(run: Run, tmp_path: Path) -> None:
    assert run("demo", "train", tmp_path / "run", "--hours", 1, "--steps", 1, 1).code == 2


@needs_weights
def test_the_embedded_model_answers_about_a_scene_with_128_of_576_tokens(run: Run, tmp_path: Path) -> None:
    scene, kept = tmp_path / "scene.png", tmp_path / "kept.png"
    run("demo", "scene", scene)
    question = foveate.demo.scene(0, "held_out").questions[0].text
    result = run("ask", scene, question, "--keep", 128, "--compare", "--picture", kept, "--json")
    assert result.code == 0
    assert result.err == ""
    assert result.data["compressed"]["visual_tokens"] == 128
    assert result.data["full"]["visual_tokens"] == result.data["visual_tokens"] == 576
    assert result.data["compressed"]["cache_bytes"] < 0.4 * result.data["full"]["cache_bytes"]
    assert result.data["answer"]
    assert any("not the world" in note for note in result.data["notes"])
    assert Image.open(kept).width > 1000


@needs_weights
def test_words_that_the_embedded_model_was_never_taught_are_named(run: Run, tmp_path: Path) -> None:
    run("demo", "scene", tmp_path / "scene.png")
    result = run("ask", tmp_path / "scene.png", "what breed is the poodle?")
    assert result.code == 0
    assert "poodle" in result.err
    assert "not the world" in result.err


@pytest.mark.skipif(not WEIGHTS.with_name("README.md").is_file(), reason="the demo model has no card yet")
def test_its_card_is_printed(run: Run) -> None:
    assert "scenes" in run("demo", "card").out
