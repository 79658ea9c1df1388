"""Everything that only a GPU can show, in one command of a few minutes: tests, waits, speed, decoding, long prompts, memory.

python benchmarks/gpu.py                          # writes benchmarks/results/gpu.json and docs/gpu.md
python benchmarks/gpu.py --seconds 200 --out FILE # elsewhere, and no page
python benchmarks/gpu.py --small --out FILE       # tiny models, also on a CPU, to see that it runs
python benchmarks/gpu.py --tables                 # the page from the results, without a card

The most important sections come first, results are written after each, and a section that fails, or ends the process, leaves the others.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from common import RESULTS
from gpu_sections import SECTIONS, Card, fits, gpu_facts
from gpu_tests import GpuTests, start_gpu_tests
from rich.console import Console

from foveate.files.records import ANYTHING
from foveate.files.writing import make_folder, write_whole

TESTS = "tests"
STARTED, DONE, FAILED, SKIPPED = "started", "done", "failed", "skipped"
CONSOLE = Console(stderr=True)


def main(
    seconds: Annotated[float, typer.Option(help="Time for everything.")] = 345,
    out: Annotated[Path, typer.Option(help="File of results (JSON).")] = RESULTS / "gpu.json",
    small: Annotated[bool, typer.Option("--small", help="Tiny models and few rounds, to see that the script runs.")] = False,
    sections: Annotated[str, typer.Option(help="Names, separated by commas.")] = ",".join([TESTS, *SECTIONS]),
    device: Annotated[str | None, typer.Option(help="cuda or cpu; by default cuda if there is one.")] = None,
    tables: Annotated[bool, typer.Option("--tables", help="Measure nothing; rewrite the page from the results.")] = False,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Measure, in a process of its own that is started again if it breaks down, and write results and page."""
    if worker:
        _work(out, sections.split(","), time.time() + seconds, small=small, device=device)
        return
    if not tables:
        unknown = set(sections.split(",")) - {TESTS, *SECTIONS}
        if unknown:
            raise typer.BadParameter(f"unknown sections: {', '.join(sorted(unknown))}; known are {', '.join([TESTS, *SECTIONS])}")
        _measure(out, sections.split(","), time.time() + seconds, seconds, small=small, device=device)
    if tables or (out == RESULTS / "gpu.json" and not small):
        from tables import main as rewrite

        rewrite()


def _measure(out: Path, wanted: list[str], end: float, seconds: float, *, small: bool, device: str | None) -> None:
    make_folder(out.parent)
    command = "python benchmarks/" + " ".join(["gpu.py", f"--seconds {seconds:g}", *(["--small"] if small else [])])
    _write(
        out, {"command": command, "small": small, "sections": {name: {"state": SKIPPED, "reason": "no time was left"} for name in wanted}}
    )
    tests = start_gpu_tests(end, whole=not small) if TESTS in wanted else None
    rest = [name for name in wanted if name != TESTS]
    try:
        while rest and time.time() < end:
            rest = _run_worker(out, rest, end, small=small, device=device, tests=tests)
        if tests is not None:
            _merge(out, TESTS, tests.finish())
    finally:
        if tests is not None:
            tests.stop()


def _run_worker(out: Path, names: list[str], end: float, *, small: bool, device: str | None, tests: GpuTests | None) -> list[str]:
    """Run sections in a process of their own, which learns from its input what the tests found, once they are over.

    Returns:
        what is left to run, after the section that broke it.
    """
    options = [*(["--small"] if small else []), *(["--device", device] if device else [])]
    command = [sys.executable, __file__, "--worker", "--out", str(out), "--sections", ",".join(names), "--seconds", str(end - time.time())]
    worker = subprocess.Popen([*command, *options], stdin=subprocess.PIPE, text=True)
    deliver = threading.Thread(target=_deliver, args=(worker, tests), daemon=True)
    deliver.start()
    try:
        code = worker.wait(max(1.0, end - time.time() + 15))
        reason = f"the process ended with code {code}"
    except subprocess.TimeoutExpired:
        worker.kill()
        code, reason = worker.wait(), "no time was left"
    states = _read(out)["sections"]
    broken = next((name for name in names if states[name]["state"] == STARTED), None)
    if broken is not None:
        _merge(out, broken, {**states[broken], "state": FAILED, "reason": reason})
    if code == 0:
        return []
    tried = [name for name in names if name == broken or states[name]["state"] in (DONE, FAILED)]
    return names[len(tried) :] if tried else []


def _deliver(worker: subprocess.Popen[str], tests: GpuTests | None) -> None:
    """Tell a worker that nothing else runs on the device, and what the tests found."""
    found = None if tests is None else tests.finish()
    with contextlib.suppress(BrokenPipeError, ValueError), worker.stdin or contextlib.nullcontext():
        if worker.stdin is not None:
            worker.stdin.write(json.dumps({"tests": found}) + "\n")


def _work(out: Path, names: list[str], end: float, *, small: bool, device: str | None) -> None:
    card = Card.here(device, end, small=small)
    results = _read(out)
    results["environment"] = gpu_facts(card)
    _write(out, results)
    alone = False
    for name in names:
        section = SECTIONS[name]
        if section.timed and not alone:
            section.prepare(card)
            line = sys.stdin.readline() or '{"tests": null}'
            tests, alone = ANYTHING.parse(line, "the result of the tests").raw["tests"], True
            if tests is not None:
                _merge(out, TESTS, tests)
        if not fits(card, section):
            continue
        started = time.time()
        state: dict[str, Any] = {"state": STARTED}
        _merge(out, name, state)
        CONSOLE.print(f"{name}: {end - started:.0f} s left")

        def keep(found: dict[str, Any], name: str = name, state: dict[str, Any] = state, started: float = started) -> None:
            state["results"] = found
            _merge(out, name, {**state, "seconds": round(time.time() - started, 1)})

        try:
            keep(section.run(card, keep))
            state["state"] = DONE
        except Exception as error:  # one section must not take the others with it; the reason is a result
            state |= {"state": FAILED, "reason": f"{type(error).__name__}: {str(error).strip():.600}"}
        _merge(out, name, {**state, "seconds": round(time.time() - started, 1)})
        CONSOLE.print(f"{name}: {state['state']} in {time.time() - started:.0f} s {state.get('reason', '')}", markup=False)
        if state["state"] == FAILED and not card.usable():
            raise typer.Exit(3)  # a new process takes the rest


def _merge(out: Path, name: str, state: dict[str, Any]) -> None:
    results = _read(out)
    results["sections"][name] = state
    _write(out, results)


def _read(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = ANYTHING.read(out).raw
    return found


def _write(out: Path, results: dict[str, Any]) -> None:
    write_whole(out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
