"""The program as a process: start-up, lists, interruption, pipes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_model import Run

from foveate.version import __version__

FOVEATE = [sys.executable, "-m", "foveate"]
ROOT = Path(__file__).parents[2]


def program(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FOVEATE, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, **options)  # type: ignore[call-overload]


@pytest.mark.parametrize("arguments", [["--help"], ["ask", "--help"], ["--version"], ["demo", "--help"]])
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = f"import sys; from foveate.cli import main; main({arguments!r}); print(sorted({{'torch', 'PIL'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_listing_methods_does_not_wait_for_transformers() -> None:
    code = "import sys; from foveate.cli import main; main(['methods']); print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"


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
    code = "import signal, sys, time; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "from foveate import images; images.load_image = lambda *a, **k: (print('on', flush=True), time.sleep(60));"
    code += "from foveate.cli import main; sys.exit(main(['ask', 'x.png', 'what ?']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m foveate methods | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60)
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


def test_models_are_listed_with_a_line_each(run: Run) -> None:
    assert "llava" in run("models").out
    data = run("models", "--json").data
    assert data["embedded"] == "demo"
    assert any("llava" in family["model_types"] for family in data["families"])
