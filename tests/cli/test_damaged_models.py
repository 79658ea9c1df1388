"""A model's folder that is damaged, incomplete or hostile: one line that names the fault, and never an answer from random weights."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from damaged_models import CASES, GOOD, Case, Damage, content, cut, setting, tensors
from small_model import Run

from foveate.chat.processors import Bounds
from foveate.errors import CheckpointError, InputError

QUESTION = "what colour is the circle ?"
ASK = ("--keep", 9, "--max-new-tokens", 3)


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A copy of the small model."""
    copy = tmp_path / "model"
    shutil.copytree(model, copy)
    return copy


@pytest.fixture(autouse=True)
def nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked anything while a model loads."""

    def asked(text: object = "") -> str:
        raise AssertionError(f"the user was asked: {text}")

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_damaged_folder_is_refused_with_one_line_that_names_the_fault(run: Run, picture: Path, folder: Path, case: Case) -> None:
    case.damage(folder)
    result = run("ask", picture, QUESTION, "--model", folder, *ASK)
    assert result.code == 1, result.out
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for word in case.words:
        assert word in result.err


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD.keys())
def test_a_whole_folder_in_another_form_answers_the_same(run: Run, picture: Path, model: Path, folder: Path, change: Damage) -> None:
    change(folder)
    expected = run("ask", picture, QUESTION, "--model", model, *ASK, "--json").data
    found = run("ask", picture, QUESTION, "--model", folder, *ASK, "--json").data
    assert found["answer"] == expected["answer"]
    assert found["visual_tokens"] == expected["visual_tokens"]


@pytest.fixture
def incomplete(folder: Path) -> Path:
    """The small model without some of its weights."""
    CASES["weights: some are missing"].damage(folder)
    return folder


RESULTS = ("results.json", "information_loss.json")
COMMANDS = {
    "ask": ("ask", "{picture}", QUESTION),
    "ask of the full model": ("ask", "{picture}", QUESTION, "--method", "none"),
    "explain": ("explain", "{picture}", QUESTION),
    "bench": ("bench", "--methods", "fastv", "--keep", "9", "--repeats", "1", "--new-tokens", "1"),
    "labels": ("labels", "scenes", "--out", "{out}", "--limit", "1"),
    "analyse": ("analyse", "--samples", "2", "--keep", "36,9", "--methods", "pool,norm", "--out", "{out}"),
    "eval": ("eval", "--suite", "scenes", "--methods", "fastv", "--keep", "9", "--limit", "1", "--out", "{out}"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_no_command_runs_a_model_with_missing_weights(
    run: Run, picture: Path, incomplete: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    if command[0] == "eval":
        pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
    out = tmp_path / "out"
    result = run(*(word.format(picture=picture, out=out) for word in command), "--model", incomplete, "--device", "cpu")
    assert result.code == 1
    assert result.out == ""
    said = result.err.splitlines()[-1]
    assert said.startswith("error: ")
    assert "missing 20 of 82 tensors (lm_head.weight, " in said
    assert "and 17 more" in said
    assert not [file for file in out.rglob("*") if file.name in RESULTS or file.suffix == ".parquet"]


def test_the_plugin_of_lmms_eval_refuses_missing_weights(incomplete: Path) -> None:
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
    from foveate.plugins.lmms_eval_model import FoveateModel

    with pytest.raises(CheckpointError, match="missing 20 of 82 tensors"):
        FoveateModel(pretrained=str(incomplete), device="cpu")


def test_the_recipe_does_not_start_from_missing_weights(run: Run, incomplete: Path, tmp_path: Path) -> None:
    result = run("demo", "train", tmp_path / "out", "--start", incomplete, "--steps", 1, 1, "--device", "cpu")
    assert result.code == 1, result.err
    assert "missing 20 of 82 tensors" in result.err.splitlines()[-1]


@pytest.mark.parametrize("form", ["{}/", "{}/.", "{}/../model"])
def test_a_folder_may_be_written_in_any_way(run: Run, picture: Path, folder: Path, form: str) -> None:
    assert run("ask", picture, QUESTION, "--model", form.format(folder), *ASK).code == 0


def test_a_folder_may_be_a_link_or_below_the_home_or_the_present_folder(
    run: Run, picture: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.parent / "link").symlink_to(folder)
    assert run("ask", picture, QUESTION, "--model", folder.parent / "link", *ASK).code == 0
    monkeypatch.setenv("HOME", str(folder.parent))
    assert run("ask", picture, QUESTION, "--model", "~/model", *ASK).code == 0
    monkeypatch.chdir(folder.parent)
    assert run("ask", picture, QUESTION, "--model", "model", *ASK).code == 0


NAMES = {
    "file": ("{folder}/model.safetensors", "is a file"),
    "picture": ("{picture}", "is a file"),
    "nothing": ("", "no such model folder"),
    "blank": ("  ", "no such model folder"),
    "missing folder": ("{folder}/nope", "no such model folder"),
    "missing home folder": ("~/nope", "no such model folder"),
    "link to itself": ("{folder}/loop", "no such model folder"),
    "very long": ("x" * 5000, "no such model folder"),
    "with a zero": ("mo\0del", "no such model folder"),
    "no id": ("a/b/c", "no such model folder"),
    "words": ("my own model", "no such model folder"),
    "address": ("https://example.org/model", "no such model folder"),
    "id without a network": ("nobody/nothing", "hub cannot be reached"),
}


@pytest.mark.parametrize(("name", "words"), NAMES.values(), ids=NAMES.keys())
def test_a_name_that_is_no_model_is_refused_with_one_line(run: Run, picture: Path, folder: Path, name: str, words: str) -> None:
    (folder / "loop").symlink_to(folder / "loop")
    result = run("ask", picture, QUESTION, "--model", name.format(folder=folder, picture=picture), *ASK)
    assert result.code == 1
    assert result.out == ""
    said = [line for line in result.err.splitlines() if not line.startswith("note: ")]
    assert len(said) == 1
    assert words in said[0]


RELEASE = {
    "weights of a part are missing": (content("vision_tower/model.safetensors", None), ("vision_tower has no weights",)),
    "weights of a part are cut off": (cut("mm_projector/model.safetensors", 0.5), ("mm_projector/model.safetensors", "damaged")),
    "settings of a part are no JSON": (content("llm/config.json", "{"), ("llm/config.json", "damaged")),
    "no tokenizer": (content("llm/tokenizer.json", None), ("no tokenizer (tokenizer.json)",)),
    "tokenizer is no JSON": (content("llm/tokenizer.json", "{"), ("llm/tokenizer.json", "damaged")),
    "absurd layers": (setting("llm/config.json", "num_hidden_layers", 5_000), ("num_hidden_layers=5000", "tensors")),
}


@pytest.mark.parametrize(("damage", "words"), RELEASE.values(), ids=RELEASE.keys())
def test_a_damaged_part_of_a_model_in_several_folders_is_named(
    run: Run, picture: Path, frames_model: Path, tmp_path: Path, damage: Damage, words: tuple[str, ...]
) -> None:
    folder = shutil.copytree(frames_model, tmp_path / "release")
    damage(folder)
    result = run("ask", picture, QUESTION, "--model", folder, *ASK)
    assert result.code == 1
    assert result.out == ""
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere templates are not bounded")
def test_a_template_that_takes_too_long_is_stopped(run: Run, picture: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveate.chat.processors.calls._BOUNDS", Bounds(seconds=0.05))
    loops = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}"
    content("chat_template.jinja", loops)(folder)
    result = run("ask", picture, QUESTION, "--model", folder, *ASK)
    assert result.code == 1
    assert result.err == (
        "error: the chat template of this model's LlavaProcessor was stopped: it takes more than 0.05 seconds; correct it "
        "(chat_template.jinja)\n"
    )


def test_the_processor_of_another_size_is_refused_by_bench_too(run: Run, folder: Path) -> None:
    CASES["processor: another picture size"].damage(folder)
    result = run("bench", *COMMANDS["bench"][1:], "--model", folder, "--device", "cpu")
    assert result.code == 1
    assert "LlavaForConditionalGeneration refuses" in result.err.splitlines()[-1]


def test_the_plugin_of_lmms_eval_refuses_a_precision_that_is_none(folder: Path) -> None:
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
    from foveate.plugins.lmms_eval_model import FoveateModel

    with pytest.raises(InputError, match="dtype='float99' is not known; it is auto, float32"):
        FoveateModel(pretrained=str(folder), device="cpu", dtype="float99")


def test_a_hub_snapshot_with_missing_weights_is_refused_like_a_folder(
    run: Run, picture: Path, incomplete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "cache" / "models--own--small"
    shutil.copytree(incomplete, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    result = run("ask", picture, QUESTION, "--model", "own/small", *ASK)
    assert result.code == 1
    assert "the weights of own/small do not fit" in result.err


def test_a_gpu_that_is_not_there_is_told_before_anything_is_read(run: Run, picture: Path, folder: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    CASES["weights: no file"].damage(folder)
    result = run("ask", picture, QUESTION, "--model", folder, "--device", "cuda", *ASK)
    assert result.code == 1
    assert "there is no device 'cuda' here" in result.err


def test_logits_that_are_not_numbers_are_no_answer(run: Run, picture: Path, folder: Path) -> None:
    def overflow(state: dict[str, torch.Tensor]) -> None:  # float16 holds the weights, and not what comes of them
        for name, value in state.items():
            if name.endswith(("linear_1.weight", "linear_2.weight")):
                value.fill_(6e4)

    tensors(overflow)(folder)
    for command in (("ask", "--method", "none"), ("explain",)):
        result = run(command[0], picture, QUESTION, *command[1:], "--model", folder, "--dtype", "float16", "--max-new-tokens", 3)
        assert result.code == 1
        assert result.err.startswith("error: ")
        assert "are not numbers (NaN in float" in result.err
