"""The program as a process: start-up, lists, interruption, pipes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from small_model import Run

from foveate.version import __version__

FOVEATE = [sys.executable, "-m", "foveate"]
ROOT = Path(__file__).parents[2]


def program(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FOVEATE, *arguments], capture_output=True, text=True, cwd=ROOT, **options)  # type: ignore[call-overload]


def imported(*arguments: str) -> set[str]:
    """The packages that a command has imported when it ends."""
    code = "import sys; from foveate.cli import main; main(sys.argv[1:]); print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["--version"], ["demo", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    assert "typer" in imported(*arguments)
    assert not {"torch", "PIL", "numpy", "transformers"} & imported(*arguments)


def test_listing_methods_does_not_import_transformers() -> None:
    there = imported("methods")
    assert "torch" in there
    assert "transformers" not in there


def test_version() -> None:
    assert program("--version").stdout == f"foveate {__version__}\n"


def test_output_for_pipes_has_no_colours() -> None:
    done = program("methods", env={**os.environ, "TERM": "xterm-256color"})
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_a_refusal_of_the_process_is_exit_code_1_without_a_traceback() -> None:
    done = program("ask", "nope.png", "what ?")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_an_interrupt_ends_the_process_quietly_with_130() -> None:
    # A shell that started the tests in the background has told its children to ignore the signal.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "from foveate import images; images.load_image = lambda *a, **k: (print('on', flush=True), sys.stdin.read());"
    code += "from foveate.cli import main; sys.exit(main(['ask', 'x.png', 'what ?']))"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], text=True, cwd=ROOT, **pipes)  # type: ignore[call-overload]
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()  # which also ends the child's wait, if the signal came just before it
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m foveate methods | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in done.stderr


def test_methods_are_listed_with_a_line_each(run: Run) -> None:
    result = run("methods")
    assert result.code == 0
    for name in ("fastv", "pool", "random", "tokencarve"):
        assert any(line.startswith(name) and len(line.split()) > 3 for line in result.out.splitlines())
    data = run("methods", "--json").data
    carve = next(method for method in data if method["name"] == "tokencarve")
    assert carve["options"]["layer"] == 2
    assert carve["options"]["keep"] is None


def test_methods_say_where_they_come_from_where_they_act_and_what_can_carry_them(run: Run) -> None:
    data = {method["name"]: method for method in run("methods", "--json").data}
    assert data["fastv"]["paper"] == {"arxiv": "2403.06764", "url": "https://arxiv.org/abs/2403.06764", "own": True}
    assert data["towerattention"]["paper"]["own"] is False
    assert data["random"]["paper"] is None
    assert data["fastv"]["acts_before"] == {"layer": 2, "other_layers": True, "stages": []}
    assert data["explainer"]["acts_before"]["other_layers"] is False
    assert data["pyramiddrop"]["acts_before"]["stages"] == [0.25, 0.5, 0.75]
    assert data["fastv"]["signals"] == ["last_attention"]
    assert data["divprune"]["signals"] == []
    assert "qwen2-vl" in data["scope"]["families"]
    assert set(data["scope"]["families"]) < set(data["divprune"]["families"])
    assert data["oracle"]["needs"] == ["the true relevance, given from Python"]
    shown = run("methods").out.partition("acts before")[2]
    for cell in ("2403.06764", "after 2412.01818", "baseline", "layer 0 only", "last attention"):
        assert cell in shown


def test_models_are_listed_with_a_line_each(run: Run) -> None:
    assert "llava" in run("models").out
    data = run("models", "--json").data
    assert data["embedded"] == "demo"
    assert any("llava" in family["model_types"] for family in data["families"])
