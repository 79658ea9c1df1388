"""`foveate eval` through the real lmms-eval: scenes and the three stand-ins, what stops it, and what is never lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveate.cli import main
from foveate.errors import InputError
from foveate.files.writing import leftovers

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")

import foveate.plugins.lmms_eval_model as plugin
from foveate.measure.evaluation.harness import Harness

Run = Callable[..., tuple[int, str, str]]
SMALL = ("--suite", "scenes", "--methods", "fastv", "--keep", "96", "--limit", "3", "--batch-size", "3", "--device", "cpu")
TASKS = ("foveate_scenes", "foveate_pope", "foveate_textvqa", "foveate_mme")


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("OPENAI_API_KEY", "AZURE_API_KEY", "AZURE_OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def runner(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["eval", *map(str, arguments)])
        return code, *capfd.readouterr()

    return runner


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that is finished."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["eval", *SMALL, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The methods of all batches that are answered from now on."""
    methods: list[Any] = []
    ask = plugin.ask

    def noting(model: Any, chat: Any, conversations: Any, method: Any, *options: Any) -> Any:
        methods.append(method)
        return ask(model, chat, conversations, method, *options)

    monkeypatch.setattr(plugin, "ask", noting)
    return methods


def test_scenes_and_stand_ins_are_evaluated_by_their_own_code(run: Run, tmp_path: Path) -> None:
    code, out, err = run(
        "--suite", "scenes", "--suite", "stand-ins", "--methods", "tokencarve", "--keep", "64", "--limit", "4", "--out", tmp_path / "run"
    )  # fmt: skip
    assert code == 0, err
    data = json.loads((tmp_path / "run" / "results.json").read_text())
    full, blind, ours = (data["results"][setting] for setting in ("full", "blind", "tokencarve-64"))
    assert tuple(full) == tuple(blind) == tuple(ours) == TASKS
    for task in TASKS:
        assert full[task]["score"] > blind[task]["score"], "the embedded model sees"
        assert (ours[task]["visual_tokens"], ours[task]["tokens_at_the_cut"], ours[task]["mean_tokens_over_layers"]) == (576, 64, 192)
        assert full[task]["of_full"] == full[task]["of_image"] == full[task]["loyalty"] == 1
        assert blind[task]["of_image"] == 0
    assert full["foveate_pope"]["score"] == full["foveate_pope"]["metrics"]["foveate_pope pope_accuracy"]
    assert full["foveate_mme"]["score"] == full["foveate_mme"]["metrics"]["foveate_mme mme_perception_score"] > 100
    assert full["foveate_mme"]["low"] is None, "the sum over pairs is no mean of questions"
    assert full["foveate_pope"]["low"] < full["foveate_pope"]["score"]
    assert data["facts"]["model"]["fingerprint"]
    assert data["facts"]["lmms_eval"]
    assert "--limit 4" in data["command"]
    assert str(tmp_path) not in json.dumps(data), "results name no place"
    assert "tokencarve-64" in out
    assert "mean" in out


def test_a_finished_run_is_not_run_again_and_can_grow(run: Run, folder: Path, asked: list[Any]) -> None:
    code, _, err = run(*SMALL, "--out", folder)
    assert (code, asked) == (0, [])
    assert "3 of 3 evaluations are finished" in err
    code, out, _ = run(*SMALL[:2], "--methods", "fastv,random", *SMALL[4:], "--out", folder)
    assert code == 0
    assert [method.name for method in asked] == ["random"]
    assert "fastv-96" in out
    assert "random-96" in out


def test_a_crash_is_no_score_and_loses_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    noting = plugin.ask

    def crash(model: Any, chat: Any, conversations: Any, method: Any, *options: Any) -> Any:
        if method is not None and method.name == "fastv":
            raise RuntimeError("out of luck")
        return noting(model, chat, conversations, method, *options)

    both = (*SMALL[:2], "--methods", "fastv,random", *SMALL[4:], "--out", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(plugin, "ask", crash)
        code, _, err = run(*both)
    assert code == 1
    assert "fastv-96 on foveate_scenes: RuntimeError: out of luck while answering foveate_scenes" in err
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert list(kept["results"]) == ["full", "blind", "random-96"]
    asked.clear()
    code, _, err = run(*both)
    assert code == 0, err
    assert [method.name for method in asked] == ["fastv"]
    assert "fastv-96" in json.loads((tmp_path / "run" / "results.json").read_text())["results"]


def test_a_disk_that_fills_up_ends_the_run_at_once_with_one_line_and_loses_nothing(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    replace = os.replace

    def full(old: Any, new: Any) -> None:
        if "random-96" in str(new):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(old, new)

    monkeypatch.setattr(os, "replace", full)
    code, out, err = run(*SMALL[:2], "--methods", "fastv,random,pool", *SMALL[4:], "--out", folder)
    assert (code, out) == (1, "")
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert told == [line for line in err.splitlines() if "No space left" in line]
    assert f"cannot write {folder / 'cells' / 'random-96' / 'foveate_scenes.json'}: No space left on device" in told[0]
    assert {method.name for method in asked} == {"random"}
    assert all(path.read_bytes() == content for path, content in before.items() if path.name == "foveate_scenes.json")
    assert not list(leftovers(folder))


def test_an_interrupted_run_keeps_what_is_finished(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = plugin.ask

    def interrupt(model: Any, chat: Any, conversations: Any, method: Any, *options: Any) -> Any:
        if method is not None:
            raise KeyboardInterrupt
        return ask(model, chat, conversations, method, *options)

    with monkeypatch.context() as patch:
        patch.setattr(plugin, "ask", interrupt)
        assert run(*SMALL, "--out", tmp_path / "run")[0] == 130
    assert list(json.loads((tmp_path / "run" / "results.json").read_text())["results"]) == ["full", "blind"]
    assert not [path for path in (tmp_path / "run").rglob("*") if path.suffix in (".writing", ".part")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--suite", "scene"), "did you mean 'scenes'"),
        (("--tasks", "foveate_scnes"), "did you mean foveate_scenes"),
        ((), "nothing to evaluate"),
        (("--suite", "scenes", "--methods", "tokencarf"), "did you mean 'tokencarve'"),
        (("--suite", "scenes", "--keep", "0"), "at least 1"),
        (("--suite", "scenes", "--layer", "50"), "50"),
        (("--suite", "stand-ins", "--limit", "3"), "foveate_mme scores 2 questions together"),
        (("--tasks", "mmvet"), "OPENAI_API_KEY"),
        (("--suite", "scenes", "--model", "./nowhere"), "no such model folder"),
        (("--suite", "scenes", "--include-path", "./nowhere"), "no such folder with tasks"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_anything_runs(
    run: Run, tmp_path: Path, asked: list[Any], arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run(*arguments, "--out", tmp_path / "run")
    assert (code, out, asked) == (1, "", [])
    assert words in err


def test_a_data_set_that_cannot_be_had_is_named_at_once(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    code, _, err = run("--tasks", "textvqa_val", "--out", tmp_path / "run")
    assert code == 1
    assert "textvqa_val needs the data set lmms-lab" in err
    assert "HF_HOME" in err


@pytest.mark.parametrize("prompt", ['"{{question}}"', "!function code.text"])
def test_rows_without_a_column_are_refused_with_those_they_have(tmp_path: Path, prompt: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"asked": "what?", "answer": "a"}\n')
    (tmp_path / "code.py").write_text('def text(row, options=None):\n    return row["question"]\n')
    (tmp_path / "short.yaml").write_text(
        "task: short\ndataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
        f"output_type: generate_until\ndoc_to_text: {prompt}\ndoc_to_target: answer\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    with pytest.raises(InputError, match=r"'question'.*they have asked, answer"):
        Harness([tmp_path], packaged=False).load("short")


def test_other_settings_do_not_mix_with_a_run(run: Run, folder: Path, asked: list[Any]) -> None:
    code, _, err = run(*SMALL, "--layer", "3", "--out", folder)
    assert (code, asked) == (1, [])
    assert "layer was None and is 3" in err
    other = folder.parent / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    code, _, err = run(*SMALL, "--out", other)
    assert code == 1
    assert "something other than a run" in err


def test_settings_of_a_run_that_finished_nothing_may_change(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert run(*SMALL, "--model", "./nowhere", "--out", folder)[0] == 1
    assert (folder / "run.json").exists()
    code, _, err = run("--suite", "scenes", "--methods", "none", "--limit", "1", "--out", folder)
    assert code == 0, err


def test_other_weights_do_not_mix_with_a_run(run: Run, folder: Path, asked: list[Any]) -> None:
    path = folder / "cells" / "full" / "foveate_scenes.json"
    path.write_text(path.read_text().replace(json.loads(path.read_text())["facts"]["model"]["fingerprint"], "0" * 64))
    code, _, err = run(*SMALL, "--out", folder)
    assert (code, asked) == (1, [])
    assert "other weights" in err


def test_two_results_are_compared_question_by_question(run: Run, folder: Path) -> None:
    results = folder / "results.json"
    code, out, err = run("--compare", f"{results}:full", f"{results}:blind", "--json")
    assert code == 0, err
    (found,) = json.loads(out)["comparisons"]
    assert (found["first"], found["second"], found["questions"], found["won"]) == ("full", "blind", 3, 0)
    assert found["difference"] == -found["lost"] / 3
    assert found["mcnemar_p"] == 2 * 0.5 ** found["lost"]
    assert "McNemar" in run("--compare", folder, folder)[1]
    for other, words in (
        (f"{results}:fast", "it has full, blind, fastv-96"),
        (folder / "run.json", "not a file of results of foveate eval"),
        (folder / "none.json", "no such file of results"),
    ):
        code, _, err = run("--compare", results, other)
        assert code == 1
        assert words in err


def test_results_on_other_questions_are_not_compared(run: Run, folder: Path) -> None:
    other = folder.parent / "other.json"
    data = json.loads((folder / "results.json").read_text())
    data["results"]["full"]["foveate_scenes"]["data"] = "0" * 64
    other.write_text(json.dumps(data))
    code, _, err = run("--compare", folder, other)
    assert code == 1
    assert "about different questions" in err
