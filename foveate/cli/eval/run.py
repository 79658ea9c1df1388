"""Methods and budgets on the tasks of lmms-eval, beside the full model and the model without the picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.cli import console
from foveate.cli.adapter import command_line
from foveate.cli.checks import model_label, parse_keep
from foveate.cli.specs import ALL, NO_METHOD, every_name, is_no_method, label_of, method_of, split_specs
from foveate.errors import FoveateError, InputError, WriteError
from foveate.measure.evaluation.suites import Benchmark, find_suite, known

if TYPE_CHECKING:
    from foveate.chat.models import Subject
    from foveate.cli.eval.command import Evaluate
    from foveate.measure.evaluation.harness import Harness, LoadedTask
    from foveate.measure.evaluation.runs import RunFolder, Setting
    from foveate.method import Method

__all__ = ["compare", "evaluate"]


def evaluate(request: Evaluate) -> None:
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
            f"{len(failed)} evaluation(s) failed, the others are kept: {'; '.join(failed)}; run the same command again to repeat them"
        )


def _run(
    request: Evaluate, folder: RunFolder, wanted: Sequence[tuple[Setting, Method | None]], benchmarks: Sequence[Benchmark]
) -> tuple[dict[str, Any], list[str]]:
    """Evaluate, while the folder is held; returns the results, and what failed."""
    from foveate.measure.evaluation.harness import Harness

    local = all(benchmark.needs == "scenes" for benchmark in benchmarks)
    with console.spinner("reading tasks"):
        drawn = _draw(request, benchmarks)
        harness = Harness([*request.include_paths, *drawn], packaged=not local)
        names = [benchmark.task for benchmark in benchmarks]
        harness.check(names)
        tasks = [harness.load(name) for name in names]
    with console.spinner(f"loading {request.model}"):
        subject, wanted = _load(request, wanted)
    session = _Session(request, folder, harness, subject)
    failed = session.run(wanted, tasks)
    return session.gather([setting for setting, _ in wanted], [task.name for task in tasks]), failed


def compare(first: str, second: str, *, as_json: bool) -> None:
    """Report whether two results differ by more than chance.

    Raises:
        InputError: a file is not there, or they have nothing in common.
    """
    from foveate.cli.eval.tables import comparison_table
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
    """One loaded model that runs what is unfinished, and keeps each evaluation as soon as it is finished."""

    def __init__(self, request: Evaluate, folder: RunFolder, harness: Harness, subject: Subject) -> None:
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
                except Exception as error:  # one that fails must not lose the others; it is reported at the end, and nothing of it is kept
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
            raise InputError(f"{self._request.out} holds results of other weights under this model's name; name another --out")
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
            batch_size=self._request.batch,
        )
        model.progress = advance
        outcome = self._harness.run(model, task, self._request.limit, self._request.out)
        more = {"method": str(method) if method is not None else None, "batch_size": self._request.batch, "seeds": self._seeds}
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
            "command": command_line("eval", self._request, model=model_label(self._request.model)),
            "facts": self._facts,
            "settings": _settings(self._request),
            "tasks": {task: dataclasses.asdict(known(task)) for task in tasks},
        }
        data = gather({name: done for name, done in cells.items() if done}, about)
        write_json(self._request.out / "results.json", data)
        return data


def _wanted(request: Evaluate) -> list[tuple[Setting, Method | None]]:
    """The settings in the order in which they run; those that all others are compared with come first."""
    from foveate.measure.evaluation.runs import BLIND, FULL, Setting

    wanted: list[tuple[Setting, Method | None]] = [(FULL, None), (BLIND, None)]
    specs, every = _specs(request)
    budgets = [parse_keep(keep) for keep in _named(_listed(request.keep), request.keep, "--keep")]
    for budget in dict.fromkeys(budgets):
        for spec in dict.fromkeys(spec for spec in specs if not is_no_method(spec)):
            try:
                method = method_of(spec, budget, request.layer, request.seed, request.settings, clamp=request.clamp)
            except FoveateError as error:
                if spec not in every:
                    raise
                console.note(f"{spec} is omitted: {error}")
                continue
            wanted.append((Setting(label_of(spec, method), budget), method))
    return wanted


def _specs(request: Evaluate) -> tuple[list[str], frozenset[str]]:
    """The methods asked for as they are spelled, and those among them that only "all" names, which may be omitted."""
    named = _named(split_specs(request.methods), request.methods, "--methods")
    if not any(spec.lower() == ALL for spec in named):
        return named, frozenset()
    every = every_name()
    listed = [each for spec in named for each in (every if spec.lower() == ALL else [spec])]
    return listed, frozenset(every) - frozenset(named)


def _benchmarks(request: Evaluate) -> list[Benchmark]:
    """The tasks asked for; those of a suite that cannot be scored here are omitted with a note."""
    from foveate.measure.evaluation.harness import has_judge

    found: list[Benchmark] = []
    for suite in request.suites:
        for benchmark in find_suite(suite):
            if not benchmark.task:
                console.note(f"{benchmark.name} is omitted: {benchmark.why}")
            elif benchmark.judge and not has_judge():
                console.note(f"{benchmark.name} is omitted: another model scores it through an API, and OPENAI_API_KEY is not set")
            else:
                found.append(benchmark)
    found += [known(task) for task in _listed(request.tasks or "")]
    if not found:
        raise InputError("there is nothing to evaluate; pass --suite, such as --suite scenes, or --tasks with lmms-eval's names")
    for benchmark in found:
        if request.limit is not None and request.limit % benchmark.group:
            raise InputError(
                f"{benchmark.task} scores {benchmark.group} questions together; --limit {request.limit} must be a multiple of it"
            )
    return list(dict.fromkeys(found))


def _listed(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _named(names: list[str], text: str, option: str) -> list[str]:
    if not names:
        raise InputError(f"{option} {text!r} names nothing; separate names by commas")
    return names


def _folder(request: Evaluate) -> RunFolder:
    from foveate.measure.evaluation.runs import RunFolder

    return RunFolder(request.out, _settings(request))


def _settings(request: Evaluate) -> dict[str, Any]:
    """What must be the same for figures to belong together, as `run.json` records it."""
    read = {"model": model_label(request.model), "settings": list(request.settings)}
    recorded = {name: read[name] if name in read else getattr(request, name) for name in request.IDENTIFYING}
    return {{"settings": "options"}.get(name, name): value for name, value in recorded.items()}


def _draw(request: Evaluate, benchmarks: Sequence[Benchmark]) -> list[Path]:
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


def _load(request: Evaluate, wanted: Sequence[tuple[Setting, Method | None]]) -> tuple[Subject, Sequence[tuple[Setting, Method | None]]]:
    """The model, and the settings after every method has been tried on it: those that only "all" names are omitted if it refuses them."""
    from foveate.chat.models import load_model
    from foveate.compression import compress

    subject = load_model(request.model, request.dtype, request.device, compress=any(method is not None for _, method in wanted))
    _, every = _specs(request)
    refused: dict[str, FoveateError] = {}
    for _, method in wanted:
        if method is None or method.name in refused:
            continue
        try:
            compress(subject.model, method).remove()
        except FoveateError as error:
            if method.name not in every:
                raise
            refused[method.name] = error
            console.note(f"{method.name} is omitted: {error}")
    return subject, [(setting, method) for setting, method in wanted if method is None or method.name not in refused]


def _show(request: Evaluate, data: dict[str, Any]) -> None:
    if request.as_json:
        console.put_json(data)
        return
    from foveate.cli.eval.tables import evaluation_table

    console.put_table(evaluation_table(data))
    questions = ", ".join(f"{task}: {figures['questions']}" for task, figures in next(iter(data["results"].values()), {}).items())
    console.put(f"questions: {questions}; written: {request.out / 'results.json'}", style="dim")
