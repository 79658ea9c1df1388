"""The demo model's other shape on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_model import Run

pytest.importorskip("sklearn")

from foveate import demo


def test_the_variant_is_asked_by_its_name(run: Run, tmp_path: Path) -> None:
    scene = tmp_path / "scene.png"
    demo.scene(3, "held_out").image.save(scene)
    result = run("ask", scene, "is there a star?", "--model", "demo-qwen2-vl", "--method", "fastv", "--keep", 36, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["compressed"]["visual_tokens"] == 36


def test_a_shape_that_does_not_exist_is_refused_with_those_that_do(run: Run, tmp_path: Path) -> None:
    scene = tmp_path / "scene.png"
    demo.scene(3, "held_out").image.save(scene)
    asked = run("ask", scene, "is there a star?", "--model", "demo-nothing")
    trained = run("demo", "train", tmp_path / "run", "--steps", 1, 1, "--shape", "nothing")
    for result in (asked, trained):
        assert result.code == 1
        assert "qwen2-vl" in result.err
    assert not (tmp_path / "run").exists()


def test_the_variant_is_trained_and_measured_by_the_same_command(run: Run, tmp_path: Path) -> None:
    options = ["--shape", "qwen2-vl", "--batch", 4, "--device", "cpu", "--steps", 1, 1, "--card-questions", 1]
    result = run("demo", "train", tmp_path, *options, "--start", demo.path())
    assert result.code == 0, result.err
    card = (tmp_path / "weights" / "README.md").read_text(encoding="utf-8")
    assert "among the 32 of 144" in card
    assert "from the weights of the embedded model in its first shape" in card
    assert "foveate demo train --shape qwen2-vl" in card
