"""Commands from dataclasses: old spellings, method spellings, recorded commands, and the options that help with an error."""

from __future__ import annotations

import json
import shlex
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from small_model import TOKENS, Run

from foveate.cli.adapter import Renamed, command_line, options_of
from foveate.cli.app import COMMANDS, DEMO_COMMANDS, EXPORT_COMMANDS
from foveate.cli.ask.command import Ask
from foveate.cli.bench.command import Bench
from foveate.cli.eval.command import Evaluate
from foveate.cli.hints import BY_TYPE, hint_for
from foveate.cli.specs import label_of, method_of
from foveate.errors import FoveateError, InputError
from foveate.files.limits import TooManyPixelsError

QUESTION = "what colour is the circle ?"
KINDS = [*COMMANDS.values(), *DEMO_COMMANDS.values(), *EXPORT_COMMANDS.values()]


@pytest.fixture
def given(run: Run, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command line makes of its options, and what it says on stderr."""

    def runner(kind: type, *arguments: object) -> tuple[Any, str]:
        found = []
        monkeypatch.setattr(kind, "run", lambda self: found.append(self))
        result = run(*arguments)
        assert result.code == 0, result.err
        return found[0], result.err

    return runner


def test_a_command_line_becomes_one_frozen_object(given: Any) -> None:
    settings, err = given(Ask, "ask", "a.png", "what ?", "--keep", "0.25", "--repeats", "3", "--method", "fastv", "--no-lines", "--json")
    assert (settings.image, settings.question, settings.budget, settings.repeats) == (Path("a.png"), "what ?", 0.25, 3)
    assert (settings.method, settings.lines, settings.as_json, settings.max_pixels) == ("fastv", False, True, 64_000_000)
    assert err == ""
    with pytest.raises(FrozenInstanceError):
        settings.keep = "1"


def test_the_same_object_is_made_in_python_with_the_same_defaults(given: Any) -> None:
    assert given(Ask, "ask", "a.png", "what ?")[0] == Ask(image=Path("a.png"), question="what ?")
    assert given(Bench, "bench")[0] == Bench()


@pytest.mark.parametrize("name", ["ask", "bench"])
def test_the_old_name_of_repeats_still_works_and_says_so(given: Any, name: str) -> None:
    words = ["a.png", "what ?"] if name == "ask" else []
    settings, err = given(COMMANDS[name], name, *words, "--repeat", "7")
    assert settings.repeats == 7
    assert err == "note: --repeat is the old spelling of --repeats, and still works\n"


def test_the_old_name_of_batch_still_works_in_every_command_that_has_one(given: Any, tmp_path: Path) -> None:
    for name, words in {
        "eval": [],
        "bench": [],
        "analyse": ["--out", tmp_path],
        "labels": ["scenes", "--out", tmp_path],
        "train": [tmp_path, "--out", tmp_path],
    }.items():
        settings, err = given(COMMANDS[name], name, *words, "--batch-size", "5")
        assert str(settings.batch) == "5"
        assert err == "note: --batch-size is the old spelling of --batch, and still works\n"


def test_the_folder_of_training_may_still_be_an_argument(given: Any) -> None:
    settings, err = given(DEMO_COMMANDS["train"], "demo", "train", "runs/mine", "--steps", "1", "2")
    assert (settings.out, settings.steps) == (Path("runs/mine"), (1, 2))
    assert err == "note: FOLDER is the old spelling of --out, and still works\n"
    assert given(DEMO_COMMANDS["train"], "demo", "train", "--out", "runs/mine")[0].out == Path("runs/mine")


def test_an_option_that_is_given_under_both_names_is_refused(run: Run) -> None:
    for repeats in ("2", str(Bench().repeats)):
        result = run("bench", "--repeats", repeats, "--repeat", "3")
        assert result.code == 2
        assert result.err == "error: --repeats is also given as --repeat, its old spelling; pass one of them; see foveate bench --help\n"


def test_a_folder_of_training_that_is_given_twice_is_refused(run: Run) -> None:
    result = run("demo", "train", "mine", "--out", "runs/demo", "--steps", "1", "1")
    assert result.code == 2
    assert result.err == "error: --out is also given as FOLDER, its old spelling; pass one of them; see foveate demo train --help\n"


def test_both_names_are_refused_where_the_new_one_is_given_its_default(run: Run) -> None:
    result = run("bench", "--repeats", Bench().repeats, "--repeat", "3", "--methods", "fastw")
    assert (result.code, "pass one of them" in result.err) == (2, True)


def test_an_old_argument_keeps_its_capitals_in_the_error(run: Run, tmp_path: Path) -> None:
    result = run("demo", "train", "runs/mine", "--out", tmp_path)
    assert result.err == "error: --out is also given as FOLDER, its old spelling; pass one of them; see foveate demo train --help\n"


def test_old_spellings_are_in_no_help(run: Run) -> None:
    for name, kind in [
        *COMMANDS.items(),
        *((f"demo {name}", kind) for name, kind in DEMO_COMMANDS.items()),
        *((f"export {name}", kind) for name, kind in EXPORT_COMMANDS.items()),
    ]:
        shown = run(*name.split(), "--help").out.split()
        for option in options_of(kind):
            assert option.name in shown or getattr(option.info, "hidden", False)
            assert not any(mark.old in shown for mark in option.marks if isinstance(mark, Renamed) and mark.old.startswith("-"))
        assert "--set" not in shown


def test_options_of_a_method_stand_after_its_name(run: Run, picture: Path, model: Path) -> None:
    asked = ["ask", picture, QUESTION, "--model", model, "--keep", 9, "--max-new-tokens", 1, "--json"]
    new = run(*asked, "--method", "tokencarve:stage_one=1:source=attention_output")
    assert new.code == 0, new.err
    assert new.err == ""
    assert (new.data["method"]["stage_one"], new.data["method"]["source"]) == (1, "attention_output")
    old = run(*asked, "--set", "stage_one=1", "--set", "source=attention_output")
    assert old.data["method"] == new.data["method"]
    assert old.err == "note: --set is an old spelling, and still works; write the option after the method: METHOD:NAME=VALUE\n"


def test_options_that_all_methods_share_are_not_given_to_one(run: Run) -> None:
    for option, value in (("layer", 3), ("keep", 4)):
        result = run("bench", "--methods", f"fastv:{option}={value}")
        said = f"fastv: {option}={value} cannot be an option of one method here; pass {option} for all methods (--{option})"
        assert (result.code, result.err) == (1, f"error: {said}\n")


def test_a_value_may_contain_colons() -> None:
    method = method_of("explainer:compressor=C:/a:b", 3)
    assert method.compressor == "C:/a:b"  # type: ignore[attr-defined]
    assert label_of("explainer:compressor=../a:b", method) == "explainer:compressor=..%2Fa:b"
    assert label_of("FastV", method_of("FastV", 3)) == "fastv"
    assert label_of("tokencarve:stage_one=1", method_of("tokencarve:stage_one=1", 3)) == "tokencarve:stage_one=1"


def test_none_is_no_method_in_any_case_and_place() -> None:
    from foveate.cli.bench.run import _methods

    assert _methods(Bench(methods="None")) == []
    assert [method.name for method in _methods(Bench(methods="fastv, NONE", keep="4,8"))] == ["fastv", "fastv"]


def test_eval_names_each_method_by_its_spelling() -> None:
    from foveate.cli.eval.run import _wanted

    asked = Evaluate(methods="fastv,none,tokencarve:information=fast, fastv", keep="64,0.5", settings=(), suites=("scenes",))
    named = {setting.name: method for setting, method in _wanted(asked)}
    assert list(named) == ["full", "blind", *(f"{name}-{keep}" for keep in (64, 0.5) for name in ("fastv", "tokencarve:information=fast"))]
    assert named["tokencarve:information=fast-64"].information == "fast"  # type: ignore[union-attr]


def test_all_names_every_method_that_a_budget_is_enough_for() -> None:
    from foveate.cli.eval.run import _wanted
    from foveate.methods import methods

    named = [setting.name for setting, _ in _wanted(Evaluate(methods="random:seed=4,ALL", keep="64", suites=("scenes",)))]
    assert named[2] == "random:seed=4-64"
    assert named[3:] == [f"{name}-64" for name in methods() if name != "oracle"]


def test_all_omits_what_cannot_act_at_the_layer_asked_for_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    from foveate.cli.eval.run import _wanted

    named = [setting.name for setting, _ in _wanted(Evaluate(methods="all", keep="64", layer=3, suites=("scenes",)))]
    assert "fastv-64" in named
    assert "explainer-64" not in named
    assert "explainer is omitted: " in capsys.readouterr().err
    with pytest.raises(InputError, match="explainer"):
        _wanted(Evaluate(methods="all,explainer", keep="64", layer=3, suites=("scenes",)))


def test_all_omits_what_the_model_cannot_carry_and_says_so(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from foveate.cli.eval.run import _load, _wanted

    asked = Evaluate(model=str(model), methods="all", keep="9,4", suites=("scenes",))
    wanted = _wanted(asked)
    _, carried = _load(asked, wanted)
    assert {setting.name for setting, _ in wanted} - {setting.name for setting, _ in carried} == {"explainer-9", "explainer-4"}
    assert capsys.readouterr().err.count("explainer is omitted: ") == 1
    named = Evaluate(model=str(model), methods="explainer", keep="9", suites=("scenes",))
    with pytest.raises(FoveateError):
        _load(named, _wanted(named))


def test_the_recorded_command_gives_the_same_settings_without_places(given: Any, tmp_path: Path) -> None:
    words = ["bench", "--model", "shape:x", "--methods", "fastv", "--repeats", "3", "--plot", "p.png", "--json"]
    words += ["--out", str(tmp_path / "a b.json")]
    settings, _ = given(Bench, *words)
    recorded = command_line("bench", settings)
    assert str(tmp_path) not in recorded
    assert "--plot" not in recorded
    assert "--json" not in recorded
    again, _ = given(Bench, *shlex.split(recorded)[1:])
    assert again == Bench(**{**vars(settings), "out": Path("a b.json"), "plot": None, "as_json": False})
    several = Evaluate(suites=("scenes", "stand-ins"), clamp=True, settings=("a=1",), out=Path("mine"))
    assert given(Evaluate, *shlex.split(command_line("eval", several))[1:])[0] == several


def test_settings_are_recorded_under_the_names_that_earlier_results_have() -> None:
    earlier = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "bench_demo.json").read_text(encoding="utf-8"))
    assert set(Bench.IDENTIFYING) == set(earlier["settings"])
    from foveate.cli.eval.run import _settings

    assert list(_settings(Evaluate())) == [*("model", "dtype", "limit", "layer", "seed"), *("options", "clamp", "frames", "max_new_tokens")]


def test_every_option_is_declared_once() -> None:
    for kind in KINDS:
        names = [name for option in options_of(kind) for name in option.declarations]
        names += [mark.old for option in options_of(kind) for mark in option.marks if isinstance(mark, Renamed)]
        assert len(names) == len(set(names)), kind


def test_an_error_names_the_option_that_helps_if_the_command_has_it() -> None:
    error = InputError("too long")
    error.parameters = ("max_new_tokens", "frames", "nothing")  # type: ignore[attr-defined]
    asked = {option.field.name: option.name for option in options_of(Ask)}
    assert hint_for(error, asked) == "--max-new-tokens, --frames"
    assert hint_for(error, {}) is None
    assert hint_for(TooManyPixelsError("too large"), asked) == "--max-megapixels"
    assert hint_for(InputError("other"), asked) is None


def test_every_hint_leads_to_an_option_of_some_command() -> None:
    fields = {option.field.name for kind in KINDS for option in options_of(kind)}
    assert {name for names in BY_TYPE.values() for name in names} <= fields


def test_an_error_with_a_hint_is_one_line(run: Run, picture: Path) -> None:
    result = run("ask", picture, QUESTION, "--max-megapixels", "0.001")
    assert result.err.endswith(" (--max-megapixels)\n")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["ask", "a.png", "?", "--dtype", "int4"], "'int4' is not one of 'auto', 'float32', 'bfloat16', 'float16'"),
        (["ask", "a.png", "?", "--layer", "two"], "'two' is not a whole number"),
        (["ask", "a.png", "?", "--repeats", "0"], "'0' must be at least 1"),
        (["train", "a", "--out", "b", "--rate", "fast"], "'fast' is not a number"),
        (["bench", "--seed", str(2**63)], f"must be at most {2**63 - 1}"),
        (["demo", "train", "--hours", "1", "--steps", "1", "1"], "--hours and --steps exclude each other"),
    ],
)
def test_wrong_usage_has_the_voice_of_all_errors(run: Run, arguments: list[str], text: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert text in result.err
    assert result.err.endswith(" --help\n")
    assert "Value error" not in result.err
    assert "Input should" not in result.err


def test_the_crop_that_was_the_default_still_works(run: Run, picture: Path, model: Path, tmp_path: Path) -> None:
    report, out = tmp_path / "report.json", tmp_path / "kept.png"
    assert run("ask", picture, QUESTION, "--model", model, "--keep", TOKENS // 4, "--max-new-tokens", 1, "--report", report).code == 0
    apart = run("draw", report, picture, out)
    drawn = out.read_bytes()
    old = run("draw", report, picture, out, "--crop", "auto")
    assert (apart.code, old.code) == (0, 0)
    assert out.read_bytes() == drawn
    assert old.err == "note: --crop auto is an old spelling, and still works; omit it\n" + apart.err


def test_both_embedded_models_are_listed(run: Run) -> None:
    from foveate import demo

    names = [entry["name"] for entry in run("models", "--json").data["embedded_models"]]
    assert names == ["demo", "demo-qwen2-vl"]
    assert len(names) == len(demo.FOLDERS)
    assert all(any(line.startswith(f"{name} ") for line in run("models").out.splitlines()) for name in names)
