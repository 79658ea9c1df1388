"""`foveate export vllm` writes a folder that vLLM can serve, whole or not at all, and refuses what could not be served."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file
from small_model import TOKENS, Run

from foveate.demo import HOME
from foveate.errors import CompressorError, WriteError
from foveate.explain.compressor.compressor import ConvCompressor
from foveate.files.checkpoints import load_folder
from foveate.methods.explainer import Explainer
from foveate.methods.tokencarve import TokenCarve
from foveate.plugins import vllm_export
from foveate.plugins.vllm.settings import ServingSettings
from foveate.plugins.vllm_export import export_vllm

REVISION = "0" * 40


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def own(model: Path, tmp_path: Path) -> Path:
    """A model's folder that a test may change."""
    return Path(shutil.copytree(model, tmp_path / "own"))


def test_the_folder_is_the_model_with_settings_and_the_served_architecture(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "served"
    done = run("export", "vllm", model, out, "--method", "tokencarve:information=fast", "--keep", 9, "--max-keep", 18, "--layer", 1)
    assert done.code == 0, done.err
    written, before = config_of(out), config_of(model)
    assert written.pop("architectures") == ["Foveate" + before.pop("architectures")[0]]
    settings = ServingSettings.from_dict(written.pop("foveate"), out)
    assert settings == ServingSettings(TokenCarve(keep=9, layer=1, information="fast"), max_keep=18)
    assert written == before
    others = {name: data for name, data in contents(model).items() if name != "config.json"}
    assert {name: data for name, data in contents(out).items() if name != "config.json"} == others
    for name in others:
        assert os.readlink(out / name) == str((model / name).resolve())
    served = load_folder(out).state_dict()
    assert all(torch.equal(value, served[name]) for name, value in load_folder(model).state_dict().items())


def test_a_copy_needs_the_model_no_more(run: Run, own: Path, tmp_path: Path) -> None:
    before = contents(own)
    assert run("export", "vllm", own, tmp_path / "served", "--keep", "0.25", "--copy").code == 0
    shutil.rmtree(own)
    found = contents(tmp_path / "served")
    assert not [path for path in (tmp_path / "served").rglob("*") if path.is_symlink()]
    assert found.keys() == before.keys()
    assert all(found[name] == before[name] for name in before if name != "config.json")


def test_options_reach_the_settings(run: Run, model: Path, tmp_path: Path) -> None:
    asked = ("export", "vllm", model, tmp_path / "served", "--method", "random", "--seed", 3, "--keep", 9, "--feature-cache", 0)
    done = run(*asked, "--json")
    assert done.code == 0, done.err
    settings = done.data["settings"]
    assert (settings["method"]["seed"], settings["method"]["keep"], settings["feature_cache_mib"]) == (3, 9, 0)
    assert config_of(tmp_path / "served")["foveate"] == settings
    assert done.data["architecture"] == config_of(tmp_path / "served")["architectures"][0]


def test_requests_may_choose_only_where_they_are_told_to(run: Run, model: Path, tmp_path: Path) -> None:
    fixed = run("export", "vllm", model, tmp_path / "fixed", "--keep", 9, "--json").data["commands"][0]
    chosen = run("export", "vllm", model, tmp_path / "chosen", "--keep", 9, "--max-keep", 18, "--json").data["commands"][0]
    assert "--trust-request-mm-kwargs" in chosen.split()
    assert "--trust-request-mm-kwargs" not in fixed.split()
    for command in (fixed, chosen):
        assert "--host 127.0.0.1" in command


@pytest.mark.parametrize("name", ["served", "100% 'own' \"mine\"\\n"])
def test_the_printed_request_is_json_with_the_picture_in_it(run: Run, model: Path, picture: Path, tmp_path: Path, name: str) -> None:
    command = run("export", "vllm", model, tmp_path / name, "--keep", 9, "--json").data["commands"][1]
    made, _, sent = command.rpartition(" | ")
    assert sent.startswith("curl -s http://127.0.0.1:8000/v1/chat/completions")
    shutil.copy(picture, tmp_path / "image.png")
    done = subprocess.run(["bash", "-c", made], cwd=tmp_path, capture_output=True, text=True, check=True)
    request = json.loads(done.stdout)
    assert request["model"] == str(tmp_path / name)
    url = request["messages"][0]["content"][0]["image_url"]["url"]
    encoded = subprocess.run(["base64", "-w0", str(picture)], capture_output=True, text=True, check=True).stdout
    assert url == f"data:image/png;base64,{encoded}"


def test_a_compressor_is_copied_into_the_folder(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "served"
    assert run("export", "vllm", "demo", out, "--method", "explainer", "--keep", 128).code == 0
    settings = config_of(out)["foveate"]
    assert settings["method"]["compressor"] == "compressor"
    shipped, copied = (load_file(folder / "compressor" / "compressor.safetensors") for folder in (HOME, out))
    assert shipped.keys() == copied.keys()
    assert all(torch.equal(shipped[name], copied[name]) for name in shipped)
    moved = out.rename(tmp_path / "moved")
    method = ServingSettings.from_dict(settings, moved).method
    assert isinstance(method, Explainer)
    assert ConvCompressor.from_pretrained(str(method.compressor)).model.model_type == config_of(moved)["model_type"]


def test_a_compressor_in_memory_is_written_too(tmp_path: Path) -> None:
    shipped = ConvCompressor.from_pretrained("demo")
    out = export_vllm("demo", tmp_path / "served", ServingSettings(Explainer(keep=0.25, compressor=shipped)))
    assert ConvCompressor.from_pretrained(out / "compressor").model == shipped.model


def test_the_compressor_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match="hidden 32"):
        export_vllm(model, tmp_path / "served", ServingSettings(Explainer(keep=0.25)))
    assert not list(tmp_path.iterdir())


def test_an_exported_folder_can_be_exported_again(run: Run, model: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("export", "vllm", model, first, "--keep", 9).code == 0
    assert run("export", "vllm", first, second, "--keep", 18).code == 0
    shutil.rmtree(first)
    assert config_of(second)["foveate"]["method"]["keep"] == 18
    assert config_of(second)["architectures"][0].count("Foveate") == 1
    assert load_folder(second).config.image_seq_length == TOKENS


def test_code_pickles_and_hidden_files_stay_out(run: Run, own: Path, tmp_path: Path) -> None:
    for name in ("modeling.py", "training_args.bin", "optimizer.pt", ".gitattributes"):
        (own / name).write_text("")
    (own / "checkpoint-1").mkdir()
    (own / "checkpoint-1" / "model.safetensors").write_text("")
    (own / "additional_chat_templates").mkdir()
    (own / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    before = {path.name for path in own.iterdir()}
    assert run("export", "vllm", own, tmp_path / "served", "--keep", 9).code == 0
    left_out = {"modeling.py", "training_args.bin", "optimizer.pt", ".gitattributes", "checkpoint-1"}
    assert {path.name for path in (tmp_path / "served").iterdir()} == before - left_out
    assert (tmp_path / "served" / "additional_chat_templates" / "tool.jinja").read_text() == "{{ messages }}"


def changed(**settings: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        written = {**config_of(folder), **settings}
        (folder / "config.json").write_text(json.dumps({name: value for name, value in written.items() if value is not None}))

    return change


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def damaged(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def broken(folder: Path) -> None:
    (folder / "vocabulary.txt").symlink_to(folder / "nowhere")


@pytest.mark.parametrize(
    ("change", "arguments", "said"),
    [
        (changed(architectures=["BertModel"]), (), "is a BertModel, which the vLLM plugin does not serve; it serves Llava"),
        (changed(architectures=None), (), 'names no class of a model under "architectures"'),
        (changed(model_type=None), (), "model_type=None"),
        (damaged, (), "model.safetensors"),
        (pickled, (), "no weights as safetensors"),
        (without("model.safetensors"), (), "no weights as safetensors"),
        (without("processor_config.json"), (), "no processor"),
        (broken, (), "broken link"),
        (None, ("--keep", TOKENS + 1), f"keep={TOKENS + 1} is above the {TOKENS} visual tokens"),
        (None, ("--max-keep", TOKENS + 1), f"max_keep={TOKENS + 1} is above the {TOKENS} visual tokens"),
        (None, ("--max-keep", "0.5"), "must be of the same unit as keep=9"),
        (None, ("--max-keep", "8"), "is smaller than keep=9"),
        (None, ("--layer", "4"), "the decoder's last layer is 3"),
        (None, ("--method", "tokencarv"), "tokencarve"),
        (None, ("--method", "tokencarve:sauce=1"), "sauce"),
        (None, ("--method", "oracle:relevance=1"), "relevance"),
        (None, ("--method", "none"), "compresses nothing"),
    ],
)
def test_what_cannot_be_served_is_refused_and_nothing_is_written(
    run: Run, own: Path, tmp_path: Path, change: Callable[[Path], None] | None, arguments: tuple[object, ...], said: str
) -> None:
    if change is not None:
        change(own)
    before = sorted(path.name for path in own.iterdir())
    keep = () if "--keep" in arguments else ("--keep", 9)
    done = run("export", "vllm", own, tmp_path / "served", *keep, *arguments)
    assert (done.code, done.out) == (1, ""), done
    assert said in done.err
    assert done.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert sorted(path.name for path in own.iterdir()) == before


def test_a_processor_that_vllm_does_not_have_is_refused(run: Run, tmp_path: Path) -> None:
    done = run("export", "vllm", "demo-qwen2-vl", tmp_path / "served", "--keep", 9)
    assert (done.code, done.out) == (1, "")
    assert "has a processor of foveate's own" in done.err
    assert not list(tmp_path.iterdir())


def test_a_place_that_is_taken_is_refused(run: Run, own: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("mine")
    for out, said in {
        tmp_path / "file": "it is a file",
        tmp_path / "full": "is not empty",
        tmp_path / "no" / "folder": "create it first",
        own: "is not empty",
        own / "served": "lies in the folder of the model",
    }.items():
        done = run("export", "vllm", own, out, "--keep", 9)
        assert done.code == 1, out
        assert said in done.err
    assert (tmp_path / "full" / "config.json").read_text() == "mine"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["config.json"]


def test_an_empty_folder_is_filled_and_keeps_its_mode(run: Run, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "served"
    out.mkdir(mode=0o700)
    assert run("export", "vllm", model, out, "--keep", 9).code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_failure_on_the_way_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, copy: bool, there: bool) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vllm_export, "write_whole", full)
    if there:
        (tmp_path / "served").mkdir()
    with pytest.raises(WriteError, match="No space left"):
        export_vllm(model, tmp_path / "served", ServingSettings(TokenCarve(keep=9)), copy=copy)
    assert [path.name for path in tmp_path.rglob("*")] == ["served"] * there


def test_a_model_that_may_only_be_read_is_left_alone(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in a shared cache belong to another user, and root, who may write everything, runs tests too."""
    opened: list[str] = []
    real = os.open

    def watched(path: Any, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            opened.append(os.path.realpath(path))
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", watched)
    export_vllm(own, tmp_path / "served", ServingSettings(TokenCarve(keep=9)))
    assert opened
    assert not [path for path in opened if path.startswith(str(own.resolve()))]


def test_an_id_is_found_in_the_cache(run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache" / "models--owner--tiny"
    for folder in ("refs", "blobs", f"snapshots/{REVISION}"):
        (cache / folder).mkdir(parents=True)
    (cache / "refs" / "main").write_text(REVISION)
    for file in model.iterdir():
        shutil.copy(file, cache / "blobs" / f"blob-of-{file.name}")
        (cache / "snapshots" / REVISION / file.name).symlink_to(f"../../blobs/blob-of-{file.name}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    done = run("export", "vllm", "owner/tiny", tmp_path / "served", "--keep", 9)
    assert done.code == 0, done.err
    assert os.readlink(tmp_path / "served" / "model.safetensors") == str((cache / "blobs" / "blob-of-model.safetensors").resolve())
    missing = run("export", "vllm", "owner/other", tmp_path / "other", "--keep", 9)
    assert (missing.code, missing.err.count("\n")) == (1, 1)
    (cache / "snapshots" / REVISION / "model.safetensors").unlink()
    partly = run("export", "vllm", "owner/tiny", tmp_path / "other", "--keep", 9)
    assert (partly.code, "no weights" in partly.err, (tmp_path / "other").exists()) == (1, True, False)


def test_the_page_lists_every_setting_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    table = page[page.index("<!-- settings -->") :].partition("<!-- end -->")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE))
    assert list(listed) == [field.name for field in fields(ServingSettings)]
    assert float(listed["feature_cache_mib"]) == ServingSettings(TokenCarve(keep=9)).feature_cache_mib
