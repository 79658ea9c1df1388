"""Training a compressor: it learns, holds out whole samples, resumes after a kill, and shares work among processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from explain_labels import GRIDS, MODEL, labels, row
from safetensors import safe_open
from safetensors.torch import load_file

from foveate import ConvCompressor
from foveate.cli import main
from foveate.errors import InputError, OptionError, TrainingError
from foveate.explain.compressor.compressor import WEIGHTS
from foveate.explain.compressor.train import CHECKPOINT, CompressorRecipe, TrainingProgress, _Run, train
from foveate.explain.compressor.training_data import LabelDataset, held_out
from foveate.explain.labels.label_files import ShardWriter, read_info, write_info

SHORT = CompressorRecipe(layers=3, batch=8, epochs=4, rate=3e-3, validation=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labels(tmp_path_factory.mktemp("labels") / "some", 60)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    train(folder, out, SHORT, cpu=True)
    return out


def saved(out: Path) -> tuple[bytes, dict[str, Any], Any]:
    with safe_open(out / WEIGHTS, "pt") as opened:
        settings = json.loads(opened.metadata()["foveate"])
    return (out / WEIGHTS).read_bytes(), settings, torch.load(out / CHECKPOINT, weights_only=True)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return all(map(same, one, other)) and len(one) == len(other) if isinstance(one, list | tuple) else one == other


def test_it_learns_what_can_be_learned(tmp_path: Path) -> None:
    moments: list[TrainingProgress] = []
    folder, tmp_path = labels(tmp_path / "labels", 150), tmp_path / "out"
    trained = train(folder, tmp_path, replace(SHORT, layers=2, kernel=1, epochs=15), cpu=True, watch=moments.append)
    assert moments[0].quality is None
    assert moments[-1].quality is not None
    assert trained.best.loss < 0.5 * moments[0].loss
    assert trained.best.overlap_50 > 0.85
    assert trained.best.overlap_25 > 0.85
    assert trained.best.rank_correlation > 0.8
    compressor = ConvCompressor.from_pretrained(tmp_path)
    assert compressor.model == MODEL
    assert compressor.labels["target"] == "logit"
    assert compressor.training_facts["validation"] == trained.best.to_dict()
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))


def test_a_seed_gives_the_same_bits_and_another_others(folder: Path, whole: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)
    train(folder, tmp_path / "again", SHORT, cpu=True)
    assert all(map(same, saved(tmp_path / "again"), saved(whole)))
    train(folder, tmp_path / "other", replace(SHORT, seed=1), cpu=True)
    assert saved(tmp_path / "other")[0] != saved(whole)[0]


KILLED = """
import os, signal, sys
from pathlib import Path
from foveate.explain.compressor.train import CompressorRecipe, train

def watch(progress):
    if (progress.epoch, progress.step) == (3, 4):
        os.kill(os.getpid(), signal.SIGKILL)

train(Path(sys.argv[1]), Path(sys.argv[2]), CompressorRecipe(**eval(sys.argv[3])), cpu=True, watch=watch)
"""


def test_a_run_that_was_killed_resumes_to_the_same_bits(folder: Path, whole: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    recipe = repr(vars(SHORT))
    killed = subprocess.run([sys.executable, "-c", KILLED, folder, tmp_path, recipe], env=environment, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert saved(tmp_path)[2]["state"]["epoch"] == 2
    moments: list[TrainingProgress] = []
    train(folder, tmp_path, SHORT, cpu=True, watch=moments.append)
    assert moments[0].epoch == 3
    assert all(map(same, saved(tmp_path), saved(whole)))
    train(folder, tmp_path, SHORT, cpu=True, watch=moments.append)
    assert all(map(same, saved(tmp_path), saved(whole)))
    assert moments[-1].epoch == 4


def test_two_processes_train_what_one_does(folder: Path, whole: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "foveate"]
    options = ["--layers", "3", "--batch", "8", "--epochs", "4", "--rate", "3e-3", "--json", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "train", folder, "--out", tmp_path, *options], env=environment, capture_output=True, check=False, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["epochs"] == 4
    recipe = replace(SHORT, validation=CompressorRecipe.validation)
    single = train(folder, tmp_path / "single", recipe, cpu=True)
    assert told["epoch"] == single.epoch
    assert told["loss"] == pytest.approx(single.best.loss, rel=1e-3)
    one, two = (load_file(out / WEIGHTS) for out in (tmp_path / "single", tmp_path))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-3, rtol=2e-2)


def test_it_stops_when_it_gets_no_better_and_keeps_the_best(folder: Path, tmp_path: Path) -> None:
    trained = train(folder, tmp_path, replace(SHORT, epochs=50, rate=0.3, patience=2), cpu=True)
    assert trained.epochs == trained.epoch + 2 < 50
    history = saved(tmp_path)[2]["state"]["history"]
    assert min(history, key=lambda entry: entry["loss"])["epoch"] == trained.epoch
    assert ConvCompressor.from_pretrained(tmp_path).training_facts["epoch"] == trained.epoch


@pytest.mark.parametrize(
    "options", [{"network": "sequence", "mean": True, "logarithm": False}, {"states": True}], ids=["published", "states"]
)
def test_every_kind_of_network_can_be_trained(options: dict[str, Any], tmp_path: Path) -> None:
    folder = labels(tmp_path / "labels", 30, states=True)
    train(folder, tmp_path / "out", replace(SHORT, epochs=1, **options), cpu=True)
    config = ConvCompressor.from_pretrained(tmp_path / "out").config
    assert (config.network, config.mean, config.hidden) == (
        options.get("network", "grid"),
        "mean" in options,
        8 if "states" in options else 0,
    )


# The labels.


def test_labels_are_read_as_they_were_written(tmp_path: Path) -> None:
    found = LabelDataset(labels(tmp_path / "labels", 8, states=True), states=True)
    assert len(found) == 8
    for number, parts in enumerate(GRIDS * 2):
        n = sum(t * h * w for t, h, w in parts)
        row = found[number]
        assert row.inputs.parts == parts
        assert row.inputs.attention.shape == (MODEL.heads, n)
        assert row.inputs.states is not None
        assert row.inputs.states.shape == (n, MODEL.hidden)
        torch.testing.assert_close(row.relevance, row.inputs.attention[1].float().square())


def test_images_of_a_sample_and_questions_about_a_scene_are_held_out_together() -> None:
    names = [f"scene-{scene:07d}-{question:02d}/{image}" for scene in range(200) for question in range(3) for image in range(2)]
    out = {}
    for name in names:
        out.setdefault(name.split("-")[1], set()).add(held_out(name, 0.1))
    assert all(len(found) == 1 for found in out.values())
    assert 0.05 < sum(found == {True} for found in out.values()) / 200 < 0.16
    rows = [held_out(f"{number:09d}/0", 0.1) for number in range(2000)]
    assert 0.08 < sum(rows) / 2000 < 0.12
    assert all(held_out(f"{number:09d}/0", 0.2) for number in range(2000) if rows[number])


def test_images_without_relevance_are_omitted(folder: Path) -> None:
    found = LabelDataset(folder, states=False)
    whole = found.split(0.2)
    found._blank = {whole[0][0], whole[1][0]}
    assert found.split(0.2) == (whole[0][1:], whole[1][1:])


# What is refused.


@pytest.mark.parametrize("options", [{"layers": 0}, {"batch": 0}, {"epochs": 0}, {"patience": 0}, {"rate": 0.0}, {"validation": 1.0}])
def test_recipes_that_cannot_be_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        CompressorRecipe(**options)


def test_another_recipe_or_other_labels_in_a_folder_are_refused(folder: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rate 0\.5 instead of 0\.003.*name another folder"):
        train(folder, whole, replace(SHORT, rate=0.5), cpu=True)
    with pytest.raises(InputError, match="images 30 instead of 60"):
        train(labels(tmp_path / "fewer", 30), whole, SHORT, cpu=True)


def test_damaged_and_missing_files_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no labels"):
        train(tmp_path, tmp_path / "out", SHORT, cpu=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="have no states"):
        train(folder, tmp_path / "out", replace(SHORT, states=True), cpu=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file"):
        train(folder, tmp_path / "file", SHORT, cpu=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="is damaged"):
        train(folder, tmp_path / "out", SHORT, cpu=True)
    few = labels(tmp_path / "few", 2)
    with pytest.raises(InputError, match="2 labelled images are too few"):
        train(few, tmp_path / "other", replace(SHORT, validation=0.01), cpu=True)
    (few / "shard-00001.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError, match="cannot be read"):
        train(few, tmp_path / "other", SHORT, cpu=True)
    for shard in few.glob("*.parquet"):
        shard.unlink()
    with pytest.raises(InputError, match="no finished shard"):
        train(few, tmp_path / "other", SHORT, cpu=True)


def test_the_command_says_what_it_wrote(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(folder), "--out", str(tmp_path), "--layers", "2", "--epochs", "1", "--batch", "16", "--device", "cpu"]
    assert main([*arguments, "--network", "sequence", "--heads", "mean", "--values", "plain"]) == 0
    told = capsys.readouterr().out
    assert f"written: {tmp_path}" in told
    assert "at 50 %" in told
    config = ConvCompressor.from_pretrained(tmp_path).config
    assert (config.network, config.mean, config.logarithm, len(config.channels)) == ("sequence", True, False, 2)
    assert main([*arguments, "--kernel", "5"]) == 1
    assert "another recipe" in capsys.readouterr().err


def test_labels_of_another_format_are_refused(tmp_path: Path) -> None:
    folder = labels(tmp_path / "labels", 8)
    info = read_info(folder)
    write_info(folder, replace(info, model=replace(info.model, heads=5)))
    with pytest.raises(InputError, match=r"attention of 3 heads, and .* says 5"):
        train(folder, tmp_path / "out", SHORT, cpu=True)


# Numbers that are not finite.


def test_training_that_diverges_stops_and_says_when(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    with pytest.raises(TrainingError, match=r"stopped in epoch 1, because .*; .*out holds no compressor yet\. Use a rate below"):
        train(folder, out, replace(SHORT, rate=1e30), cpu=True)
    assert not (out / WEIGHTS).exists()
    assert not (out / CHECKPOINT).exists()
    arguments = ["train", str(folder), "--out", str(out), "--layers", "2", "--batch", "8", "--rate", "1e30", "--device", "cpu"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert "written" not in told.out
    assert [line for line in told.err.splitlines() if line.startswith("error: training stopped in epoch 1")]
    assert "Traceback" not in told.err


def test_the_result_of_earlier_epochs_is_kept_and_resumed(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = _Run._loss

    def diverging(self: _Run, rows: Any) -> torch.Tensor:
        return loss(self, rows) * (float("nan") if self.state.epoch == 2 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_loss", diverging)
        with pytest.raises(TrainingError, match=r"in epoch 3, because the loss is nan in step 1 of \d+; .*the compressor of epoch [12]\."):
            train(folder, tmp_path, SHORT, cpu=True)
    assert saved(tmp_path)[2]["state"]["epoch"] == 2
    ConvCompressor.from_pretrained(tmp_path).check(MODEL)
    train(folder, tmp_path, SHORT, cpu=True)
    assert all(map(same, saved(tmp_path), saved(whole)))


def test_weights_that_an_epoch_s_last_step_spoils_are_not_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validate = _Run._validate

    def spoiled(self: _Run) -> Any:
        if self.state.epoch == 1:
            with torch.no_grad():
                self.compressor.network.head.weight.fill_(float("inf"))
        return validate(self)

    monkeypatch.setattr(_Run, "_validate", spoiled)
    with pytest.raises(TrainingError, match=r"in epoch 2, because 1 tensors of weights, network\.head\.weight first, are not finite"):
        train(folder, tmp_path, SHORT, cpu=True)
    content = saved(tmp_path)[2]
    assert content["state"]["epoch"] == 1
    assert all(value.isfinite().all() for value in content["network"].values())
    content["network"]["network.head.bias"].fill_(float("nan"))
    torch.save(content, tmp_path / CHECKPOINT)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"checkpoint\.pt holds weights that are not finite \(network\.head\.bias\)"):
        train(folder, tmp_path, SHORT, cpu=True)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("column", ["relevance", "attention", "states"])
def test_labels_that_are_not_finite_are_refused_with_the_name_of_their_row(column: str, value: float, tmp_path: Path) -> None:
    folder = labels(tmp_path / "labels", 20, states=True)
    draw = np.random.default_rng(0)
    spoiled = row(777, GRIDS[0], draw, states=True)
    getattr(spoiled, column).flat[3] = value
    with ShardWriter(folder, 2, states=True) as writer:
        writer.keep([spoiled])
    with pytest.raises(InputError, match=rf"the {column} of '000000777/0' in .*labels is not finite"):
        found = LabelDataset(folder, states=True)
        found[len(found) - 1]
    with pytest.raises(InputError, match="is not finite"):
        train(folder, tmp_path / "out", replace(SHORT, states=True, epochs=1), cpu=True)
    assert not (tmp_path / "out" / WEIGHTS).exists()
