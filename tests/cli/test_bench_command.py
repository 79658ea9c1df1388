"""`foveate bench`: what it writes, what it resumes, what it refuses. No assertion on time."""

from __future__ import annotations

import json
import platform
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_model import TOKENS, Result, Run

from foveate.cli.bench import subject
from foveate.measure.bench import memory, speed
from foveate.measure.bench.records import Timing

QUICK = ("--methods", "fastv", "--keep", "9", "--prompt", "6+6", "--new-tokens", "1,3", "--repeats", "1")


@pytest.fixture
def bench(run: Run, model: Path) -> Run:
    def runner(*arguments: object) -> Result:
        return run("bench", "--model", model, *QUICK, *arguments)

    return runner


def results(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_run_writes_everything_that_its_figures_depend_on(bench: Run, model: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "run.json", tmp_path / "run.png"
    result = bench("--batch", "1,2", "--methods", "fastv,tokencarve:information=fast", "--out", out, "--plot", plot)
    assert result.code == 0, result.err
    data = results(out)
    assert {"foveate", "torch", "transformers", "processor", "threads", "model"} <= set(data["facts"])
    assert {"fingerprint", "revision", "attention", "dtype"} <= set(data["facts"]["model"])
    assert data["settings"]["seed"] == 0
    assert data["command"].startswith(f"foveate bench --model {model.name} ")
    assert [group["batch"] for group in data["groups"]] == [1, 2]
    assert [row["kind"] for row in data["groups"][0]["rows"]] == ["full", "ideal", "ideal", "method", "method"]
    assert data["groups"][0]["visual_tokens"] == TOKENS
    assert data["groups"][0]["prompt_tokens"] == TOKENS + 12
    text = out.read_text()
    assert str(tmp_path) not in text
    assert str(model.parent) not in text
    assert platform.node() not in text
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_tables_name_rows_and_kernels(bench: Run) -> None:
    result = bench()
    assert result.code == 0, result.err
    for text in ("full", "ideal 9 from the start", "ideal 9 from layer 2", "FastV(keep=9)", "attention: text sdpa", "key/value cache"):
        assert text in result.out


def test_switches_add_rows(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    result = bench("--static", "--compiled-layers", "--new-tokens", "1,2", "--out", out)
    assert result.code == 0, result.err
    for text in ("full, generate", "full, static cache", "FastV(keep=9), static cache", "host in hooks", "of full alike"):
        assert text in result.out, text
    rows = {row["name"]: row for row in results(out)["groups"][0]["rows"]}
    assert rows["FastV(keep=9), compiled layers"]["failed"] is None
    assert rows["FastV(keep=9)"]["hooks"]["prefill"] > 0
    settings = results(out)["settings"]
    assert (settings["static"], settings["compiled_layers"], "compile" in settings) == (True, True, False)
    assert bench("--out", out).code == 1


def test_the_host_s_overhead_is_measured_on_request(bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overhead = pytest.importorskip("foveate.measure.bench.host_overhead")
    monkeypatch.setattr(overhead, "host_overhead", partial(overhead.host_overhead, layers=4, rounds=1))
    out = tmp_path / "run.json"
    result = bench("--host-overhead", "--methods", "fastv,explainer:compressor=untrained", "--out", out)
    assert result.code == 0, result.err
    assert "host overhead" in result.out
    found = results(out)["host_overhead"]
    assert [name.split("(")[0] for name in found] == ["FastV", "Explainer"]
    assert all(each["ratio"] == pytest.approx(each["compressed"] / each["plain"]) for each in found.values())


def test_json_goes_to_stdout_alone(bench: Run) -> None:
    result = bench("--json")
    assert [row["name"] for row in result.data["groups"][0]["rows"]][-1] == "FastV(keep=9)"
    assert "prefill_of_full" in result.data["groups"][0]["rows"][-1]["figures"]


def test_the_same_command_resumes_and_another_is_refused(bench: Run, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    assert bench("--out", out).code == 0
    first = results(out)["groups"][0]["rows"][0]["timings"]
    assert bench("--out", out, "--repeats", "2", "--batch", "1,2").code == 0
    groups = results(out)["groups"]
    assert groups[0]["rows"][0]["timings"][:1] == first
    assert [len(group["rows"][0]["timings"]) for group in groups] == [2, 2]
    before = out.read_bytes()
    refused = bench("--out", out, "--seed", "1")
    assert refused.code == 1
    assert "a run with other settings (seed was 0 and is 1)" in refused.err
    assert out.read_bytes() == before


def test_an_interrupted_run_keeps_finished_rounds(bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, timed, runs = tmp_path / "run.json", speed._time, []

    def interrupted(*args: Any) -> Timing:
        runs.append(1)
        if len(runs) == 6:
            raise KeyboardInterrupt
        return timed(*args)

    monkeypatch.setattr(speed, "_time", interrupted)
    result = bench("--out", out, "--repeats", "2")
    assert result.code == 130
    assert "1 finished round(s)" in result.err
    kept = results(out)["groups"][0]["rows"]
    assert [len(row["timings"]) for row in kept] == [1] * 4
    assert bench("--out", out, "--repeats", "2").code == 0
    assert results(out)["groups"][0]["rows"][3]["timings"][0] == kept[3]["timings"][0]


def test_a_batch_that_is_too_large_leaves_the_others(bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, made = tmp_path / "run.json", subject.BenchSubject.inputs

    def inputs(self: Any, prompts: Any, batch: int, new_tokens: int) -> Any:
        if batch == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")
        return made(self, prompts, batch, new_tokens)

    monkeypatch.setattr(subject.BenchSubject, "inputs", inputs)
    result = bench("--batch", "1,2", "--out", out)
    assert result.code == 0
    assert "batch 2 runs out of memory" in result.err
    assert [group["failed"] for group in results(out)["groups"]] == [None, "out of memory"]


def test_runs_are_compared_unless_that_would_not_be_fair(bench: Run, run: Run, tmp_path: Path) -> None:
    same, other, eager, half = (tmp_path / f"{name}.json" for name in ("same", "other", "eager", "half"))
    for path, options in {same: (), other: ("--seed", "1"), eager: ("--attention", "eager"), half: ("--dtype", "bfloat16")}.items():
        assert bench("--out", path, *options).code == 0
    fair = run("bench", "--compare", same, other)
    assert fair.code == 0
    assert "FastV(keep=9)" in fair.out
    for path, reasons in {eager: ("attention: ", "eager", "sdpa", "attention kernel"), half: ("dtype: float32, bfloat16",)}.items():
        refused = run("bench", "--compare", same, path)
        assert refused.code == 1
        assert all(reason in refused.err for reason in reasons)
        assert not refused.out


def test_a_published_shape_is_measured_without_a_download(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "run.json"
    result = run("bench", "--model", "shape:qwen2-vl-2b", "--scale", "128/4", "--image-size", "168x112", *QUICK, "--out", out)
    assert result.code == 0, result.err
    data = results(out)
    assert data["groups"][0]["visual_tokens"] == 24
    assert data["shape"]["text"]["hidden_size"] == 128
    assert data["settings"]["model"] == "shape:qwen2-vl-2b"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keep", TOKENS + 1), f"more visual tokens than the {TOKENS}"),
        (("--keep", "0"), "at least 1 token"),
        (("--layer", "4"), "last layer is 3"),
        (("--batch", "0"), "--batch '0'"),
        (("--batch", "1,x"), "--batch '1,x'"),
        (("--new-tokens", "0"), "--new-tokens '0'"),
        (("--new-tokens", "4000"), "context is 256"),
        (("--prompt", "many"), "--prompt 'many'"),
        (("--prompt", "0+0"), "at least"),
        (("--methods", "fastw"), "did you mean 'fastv'"),
        (("--methods", "tokencarve:informations=fast"), "did you mean 'information'"),
        (("--methods", ","), "names nothing"),
        (("--image-size", "large"), "--image-size 'large'"),
        (("--scale", "0.5"), "shape:"),
        (("--attention", "quick"), "--attention quick"),
        (("--model", "shape:lava-1.5-7b"), "did you mean 'llava-1.5-7b'"),
        (("--model", "llava-1.5-7b"), "did you mean 'shape:llava-1.5-7b'"),
        (("--model", "shape:llava-1.5-7b", "--layer", "32"), "last layer is 31"),
        (("--model", "shape:llava-1.5-7b", "--keep", "577"), "more visual tokens than the 576"),
        (("--model", "shape:llava-1.5-7b", "--image-size", "672"), "336x336 only"),
        (("--out", "nowhere/run.json"), "no folder nowhere"),
        (("--out", "run.txt"), ".json"),
        (("--plot", "run.gif"), ".png"),
    ],
)
def test_bad_input_is_refused_with_what_would_be_right(
    bench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed, "_time", lambda *args: pytest.fail("something was timed"))
    result = bench(*arguments)
    assert result.code == 1
    assert message in result.err
    assert not result.out
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fit_are_refused_before_they_are_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda device: 1_000_000_000)
    result = run("bench", "--model", "shape:llava-1.5-7b", "--device", "cpu", *QUICK)
    assert result.code == 1
    assert "needs 28.3 GB for its weights in float32, and 1.0 GB are free on cpu" in result.err


def test_files_that_are_no_results_are_not_compared(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text("[]")
    for one in (path, tmp_path / "missing.json"):
        result = run("bench", "--compare", one, path)
        assert result.code == 1
        assert one.name in result.err
