"""Commands that draw scenes draw them as large as the model's pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from small_luggage import config, luggage
from test_smollm2_build import adapters

from foveate import demo
from foveate.cli import main
from foveate.demo.folders import CACHE, built_folder
from foveate.explain.labels.scene_samples import SceneSamples
from foveate.measure.scenes import own_language, prompt_of, side_of
from foveate.recipe.smollm2.build import write_model
from foveate.recipe.smollm2.language import prompt

MODEL = ["--model", "demo-smollm2", "--device", "cpu"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    folder = built_folder("demo-smollm2")
    folder.parent.mkdir(parents=True)
    write_model(adapters(), luggage(), config(), 12, folder)
    return folder


def test_the_prompt_is_that_of_the_chat_template_and_the_side_that_of_the_pictures(model: Path) -> None:
    assert model.is_dir()
    _, processor = demo.load(shape="smollm2")
    assert not own_language(processor)
    assert side_of(processor) == 12
    assert prompt_of(processor, " what does the sign say? ") == prompt("what does the sign say?")


def test_information_loss_is_analysed_on_small_pictures(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--samples", "3", "--methods", "random,norm", "--keep", "144,36", "--seeds", "1", "--layer", "1", "--layers", "1"]
    assert main(["analyse", *MODEL, *words, "--out", str(out)]) == 0
    found = json.loads((out / "information_loss.json").read_text(encoding="utf-8"))
    assert (found["questions"], found["full"]["keep"]) == (3, 144)
    assert {cell["keep"] for cell in found["cells"]} == {36}
    assert model.is_dir()


def test_labels_are_made_from_small_pictures(model: Path, tmp_path: Path) -> None:
    for package in ("accelerate", "datasets"):
        pytest.importorskip(package)
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "labels"
    assert main(["labels", "scenes", *MODEL, "--limit", "2", "--keep-all", "--max-new-tokens", "2", "--out", str(out)]) == 0
    rows = [row for shard in sorted(out.glob("*.parquet")) for row in parquet.read_table(shard).to_pylist()]
    assert rows
    assert {len(row["relevance"]) for row in rows} == {144}
    assert json.loads((out / "labels.json").read_text(encoding="utf-8"))["data"]["patches per side"] == 12
    assert model.is_dir()


def test_what_is_read_may_be_spelled_if_the_model_spells() -> None:
    plain, spelled = SceneSamples(12), SceneSamples(12, side=12, spelled=True)
    assert "patches per side" not in plain.describe()
    assert {sample.pictures[0].size for sample in map(plain.read, range(12))} == {(336, 336)}
    assert {sample.pictures[0].size for sample in map(spelled.read, range(12))} == {(168, 168)}
    assert all(len(sample.references) == 1 for sample in map(plain.read, range(12)))
    assert all(sample.references[1] == " ".join(sample.references[0]) for sample in map(spelled.read, range(12)))
