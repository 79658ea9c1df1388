"""`foveate eval`: methods and budgets on the tasks of lmms-eval, beside the full model and the model without the picture."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli import console
from foveate.cli.checks import parse_keep
from foveate.errors import InputError, WriteError
from foveate.measure.evaluation.suites import Benchmark, find_suite, known

if TYPE_CHECKING:
    from foveate.chat.models import Subject
    from foveate.measure.evaluation.harness import Harness, LoadedTask
    from foveate.measure.evaluation.runs import RunFolder, Setting
    from foveate.method import Method

__all__ = ["Request", "compare", "evaluate"]

NO_METHOD = "none"


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `foveate eval`."""

    model: str
    suites: tuple[str, ...]
    tasks: str | None
    methods: str
    keeps: str
    limit: int | None
    out: Path
    layer: int | None
    seed: int | None
    settings: tuple[str, ...]
    clamp: bool
    batch_size: int
    frames: int
    max_new_tokens: int | None
    dtype: str
    device: str
    include_paths: tuple[Path, ...]
    as_json: bool


def evaluate(request: Request) -> None:
    """Run the command.

    Raises:
        FoveateError: whatever is wrong with the request, before anything is evaluated; or afterwards, if an evaluation failed.
    """
    wanted = _wanted(request)
    benchmarks = _benchmarks(request)
    from foveate.measure.evaluation.harness import require

    require()
    with _folder(request) as folder:
        data, failed = _run(request, folder, wanted, benchmarks)
    _show(request, data)
    if failed:
        raise InputError(
            f"{len(failed)} evaluation(s) failed, the others are kept: {'; '.join(failed)}; run the same command again to try them anew"
        )


def _run(
    request: Request, folder: RunFolder, wanted: Sequence[tuple[Setting, Method | None]], benchmarks: Sequence[Benchmark]
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate in a folder that is held; returns what came out, and what failed."""
    from foveate.measure.evaluation.harness import Harness

    local = all(benchmark.needs == "scenes" for benchmark in benchmarks)
    with console.spinner("reading tasks"):
        drawn = _draw(request, benchmarks)
        harness = Harness([*request.include_paths, *drawn], packaged=not local)
        names = [benchmark.task for benchmark in benchmarks]
        harness.check(names)
        tasks = [harness.load(name) for name in names]
    with console.spinner(f"loading {request.model}"):
        subject = _load(request, [method for _, method in wanted if method is not None])
    session = _Session(request, folder, harness, subject)
    failed = session.run(wanted, tasks)
    return session.gather([setting for setting, _ in wanted], [task.name for task in tasks]), failed


def compare(first: str, second: str, *, as_json: bool) -> None:
    """Tell whether two results differ beyond chance.

    Raises:
        InputError: a file is not there, or they have nothing in common.
    """
    from foveate.cli.evaluation_table import comparison_table
    from foveate.measure.evaluation.comparison import compare as compare_results

    found, notes = compare_results(first, second)
    if as_json:
        console.put_json({"comparisons": [dataclasses.asdict(each) for each in found], "notes": notes})
        return
    console.put_table(comparison_table(found))
    console.put("difference: second minus first, by paired bootstrap; lost/won: right in the first or the second only", style="dim")
    for text in notes:
        console.note(text)


class _Session:
    """One loaded model that runs what is not finished yet, and keeps each evaluation as soon as it is."""

    def __init__(self, request: Request, folder: RunFolder, harness: Harness, subject: Subject) -> None:
        from importlib.metadata import version

        from foveate.measure.facts import facts

        self._request, self._folder, self._harness, self._subject = request, folder, harness, subject
        self._facts = {**facts(subject.model), **{name: version(name) for name in ("lmms_eval", "datasets")}}
        self._seeds = {"random": 0, "numpy": 1234, "torch": 1234}

    def run(self, wanted: Sequence[tuple[Setting, Method | None]], tasks: Sequence[LoadedTask]) -> list[str]:
        """Evaluate; returns what failed, and why."""
        cells = [(setting, method, task) for setting, method in wanted for task in tasks]
        left = [cell for cell in cells if not self._finished(cell[0], cell[2])]
        if len(left) < len(cells):
            console.note(f"{len(cells) - len(left)} of {len(cells)} evaluations are finished already, in {self._request.out}")
        failed: list[str] = []
        with console.counting("questions", sum(task.questions(self._request.limit) for _, _, task in left)) as advance:
            for setting, method, task in left:
                try:
                    self._evaluate(setting, method, task, advance)
                except WriteError:  # the others could not be kept either
                    raise
                except Exception as error:  # one that fails must not lose the others; it is told at the end, and nothing is kept of it
                    notes = " ".join(getattr(error, "__notes__", ()))
                    failed.append(f"{setting.name} on {task.name}: {type(error).__name__}: {error} {notes}".strip())
                    console.note(f"failed: {failed[-1]}")
                self.gather([each for each, _ in wanted], [each.name for each in tasks])
        return failed

    def _finished(self, setting: Setting, task: LoadedTask) -> bool:
        cell = self._folder.done(setting, task.name)
        if cell is None:
            return False
        before, now = cell["facts"]["model"]["fingerprint"], self._facts["model"]["fingerprint"]
        if before != now:
            raise InputError(f"{self._request.out} holds figures of other weights under this model's name; choose another --out")
        return True

    def _evaluate(self, setting: Setting, method: Method | None, task: LoadedTask, advance: Callable[[int], object]) -> None:
        from foveate.measure.evaluation.runs import BLIND, cell_of
        from foveate.plugins.lmms_eval_model import FoveateModel

        model = FoveateModel(
            subject=self._subject,
            method=method or NO_METHOD,
            image="blind" if setting == BLIND else "seen",
            frames=self._request.frames,
            max_new_tokens=self._request.max_new_tokens,
            batch_size=self._request.batch_size,
        )
        model.progress = advance
        outcome = self._harness.run(model, task, self._request.limit, self._request.out)
        more = {"method": str(method) if method is not None else None, "batch_size": self._request.batch_size, "seeds": self._seeds}
        self._folder.keep(setting, task.name, cell_of(outcome, model.replies, self._facts, **more))

    def gather(self, settings: Sequence[Setting], tasks: Sequence[str]) -> dict[str, Any]:
        """Write what is finished as one document."""
        from foveate.measure.evaluation.results import gather
        from foveate.measure.store import write_json

        cells: dict[str, dict[str, Any]] = {}
        for setting in settings:
            done = {task: self._folder.done(setting, task) for task in tasks}
            cells[setting.name] = {task: cell for task, cell in done.items() if cell is not None}
        about = {
            "command": _command(self._request),
            "facts": self._facts,
            "settings": _settings(self._request),
            "tasks": {task: dataclasses.asdict(known(task)) for task in tasks},
        }
        data = gather({name: done for name, done in cells.items() if done}, about)
        write_json(self._request.out / "results.json", data)
        return data


def _wanted(request: Request) -> list[tuple[Setting, Method | None]]:
    """The settings in the order in which they run: what all others are compared with comes first."""
    from foveate.measure.evaluation.runs import BLIND, FULL, Setting
    from foveate.methods.options import build_method

    wanted: list[tuple[Setting, Method | None]] = [(FULL, None), (BLIND, None)]
    names = [name for name in _listed(request.methods, "--methods") if name.lower() != NO_METHOD]
    budgets = [parse_keep(keep) for keep in _listed(request.keeps, "--keep")]
    for budget in dict.fromkeys(budgets):
        for name in dict.fromkeys(names):
            method = build_method(name, budget, request.layer, request.seed, request.settings, request.clamp)
            wanted.append((Setting(method.name, budget), method))
    return wanted


def _benchmarks(request: Request) -> list[Benchmark]:
    """The tasks asked for; those of a suite that cannot be scored here are left out with a note."""
    from foveate.measure.evaluation.harness import has_judge

    found: list[Benchmark] = []
    for suite in request.suites:
        for benchmark in find_suite(suite):
            if not benchmark.task:
                console.note(f"{benchmark.name} is left out: {benchmark.why}")
            elif benchmark.judge and not has_judge():
                console.note(f"{benchmark.name} is left out: another model scores it through an API, and OPENAI_API_KEY is not set")
            else:
                found.append(benchmark)
    found += [known(task) for task in _listed(request.tasks or "", "--tasks", empty=True)]
    if not found:
        raise InputError("nothing to evaluate; pass --suite scenes, say, or --tasks with lmms-eval's names")
    for benchmark in found:
        if request.limit is not None and request.limit % benchmark.group:
            raise InputError(
                f"{benchmark.task} scores {benchmark.group} questions together, so --limit {request.limit} must be a multiple of that"
            )
    return list(dict.fromkeys(found))


def _listed(text: str, option: str, *, empty: bool = False) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names and not empty:
        raise InputError(f"{option} names nothing")
    return names


def _folder(request: Request) -> RunFolder:
    from foveate.measure.evaluation.runs import RunFolder

    return RunFolder(request.out, _settings(request))


def _settings(request: Request) -> dict[str, Any]:
    """What must be the same for figures to belong together; methods, budgets and tasks may be added to a run."""
    return {
        "model": _label(request.model),
        "dtype": request.dtype,
        "limit": request.limit,
        "layer": request.layer,
        "seed": request.seed,
        "options": list(request.settings),
        "clamp": request.clamp,
        "frames": request.frames,
        "max_new_tokens": request.max_new_tokens,
    }


def _label(model: str) -> str:
    """A model's name without the place where it lies."""
    folder = Path(model).expanduser()
    return folder.resolve().name if folder.is_dir() else model


def _command(request: Request) -> str:
    """The command that gives these figures again, without places."""
    given: dict[str, Any] = {
        "--model": _label(request.model),
        "--tasks": request.tasks,
        "--methods": request.methods,
        "--keep": request.keeps,
        "--limit": request.limit,
        "--layer": request.layer,
        "--seed": request.seed,
        "--frames": request.frames,
        "--max-new-tokens": request.max_new_tokens,
        "--batch-size": request.batch_size,
        "--dtype": request.dtype,
        "--device": request.device,
        "--out": request.out.name,
    }
    words = ["foveate", "eval", *(word for suite in request.suites for word in ("--suite", suite))]
    words += [str(word) for option, value in given.items() if value is not None for word in (option, value)]
    words += [word for setting in request.settings for word in ("--set", setting)]
    return shlex.join([*words, *(["--clamp"] if request.clamp else [])])


def _draw(request: Request, benchmarks: Sequence[Benchmark]) -> list[Path]:
    """The folder of the stand-ins among the tasks, drawn if they are not there."""
    wanted = [benchmark.task for benchmark in benchmarks if benchmark.needs == "scenes" and benchmark.task != "foveate_scenes"]
    if not wanted:
        return []
    from foveate.measure.evaluation.drawn_tasks import ROWS, draw_task

    rows = request.limit or ROWS
    folder = request.out / f"tasks-{rows}"
    for task in wanted:
        if not (folder / f"{task}.yaml").exists():
            draw_task(task, folder, rows)
    return [folder]


def _load(request: Request, methods: Sequence[Method]) -> Subject:
    """The model, once every method has been put into it and taken out again."""
    from foveate.chat.models import load_model
    from foveate.compression import compress

    subject = load_model(request.model, request.dtype, request.device, compress=bool(methods))
    for method in methods:
        compress(subject.model, method).remove()
    return subject


def _show(request: Request, data: dict[str, Any]) -> None:
    if request.as_json:
        console.put_json(data)
        return
    from foveate.cli.evaluation_table import evaluation_table

    console.put_table(evaluation_table(data))
    questions = ", ".join(f"{task}: {figures['questions']}" for task, figures in next(iter(data["results"].values()), {}).items())
    console.put(f"questions: {questions}; written: {request.out / 'results.json'}", style="dim")
