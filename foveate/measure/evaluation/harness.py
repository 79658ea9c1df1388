"""lmms-eval in this process: finds tasks, checks them before any model runs, and runs one with one model."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from foveate.errors import FoveateError, InputError, UnknownNameError, UnsupportedError
from foveate.measure.evaluation.suites import Benchmark, known
from foveate.measure.evaluation.tasks import FOLDER

__all__ = ["INSTALL", "Harness", "LoadedTask", "ScoredAnswer", "TaskResult", "has_judge", "require"]

INSTALL = "pip install 'foveate[demo,eval]' && pip install --no-deps lmms-eval==0.7.3"
MODEL = "foveate"
JUDGE_KEYS = ("OPENAI_API_KEY", "AZURE_API_KEY", "AZURE_OPENAI_API_KEY")
LOCAL = frozenset(("parquet", "json", "csv", "arrow", "text", "pandas", "imagefolder", "videofolder"))
"""Builders of `datasets` that read files here."""


@dataclass(frozen=True)
class LoadedTask:
    """A task whose rows are available and readable.

    Attributes:
        benchmark: what foveate knows about it.
        parts: lmms-eval's task objects by name; several for a group.
    """

    benchmark: Benchmark
    parts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """lmms-eval's name."""
        return self.benchmark.task

    def questions(self, limit: int | None) -> int:
        """How many questions there are, with at most `limit` of each part."""
        return sum(min(len(part.eval_docs), limit or len(part.eval_docs)) for part in self.parts.values())


@dataclass(frozen=True)
class ScoredAnswer:
    """One answered question.

    Attributes:
        id: the part's name and the number of the row.
        answer: the model's, as it was scored.
        target: the right answer, as text.
        score: the question's own score, by the task's code; `None` if questions have none.
    """

    id: str
    answer: str
    target: str
    score: float | None


@dataclass(frozen=True)
class TaskResult:
    """The result of one task with one model.

    Attributes:
        score: the task's score, by its own code.
        metrics: all metrics of its code, by "part metric".
        samples: the questions in order.
    """

    score: float
    metrics: dict[str, float]
    samples: tuple[ScoredAnswer, ...]


class Harness:
    """lmms-eval with its own tasks, foveate's and others.

    Args:
        folders: further folders with tasks.
        packaged: include lmms-eval's own tasks; reading all of them takes seconds.

    Raises:
        InputError: a folder does not exist.
        UnsupportedError: lmms-eval or one of its requirements is not installed.
    """

    def __init__(self, folders: Sequence[Path] = (), *, packaged: bool = True) -> None:
        require()
        from lmms_eval.tasks import TaskManager

        missing = [folder for folder in folders if not folder.is_dir()]
        if missing:
            raise InputError(f"no such folder with tasks: {missing[0]}")
        paths = [str(FOLDER), *(str(folder.resolve()) for folder in folders)]
        self._manager: Any = TaskManager("ERROR", include_path=paths, include_defaults=packaged, model_name=MODEL)

    def check(self, names: Sequence[str]) -> None:
        """Check that tasks exist and can be scored here, without reading any rows.

        Raises:
            UnknownNameError: a task does not exist; the message has the nearest names.
            UnsupportedError: a task needs a judge, and no API key is set.
        """
        for name in names:
            if name not in self._manager.task_index:
                near = difflib.get_close_matches(name, self._manager.all_tasks, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}? " if near else ""
                raise UnknownNameError(
                    f"unknown task {name!r}: {hint}lmms-eval tasks list shows all; for tasks of your own, name their folder"
                )
            if known(name).judge and not has_judge():
                raise UnsupportedError(f"{name} is scored by another model through an API; set OPENAI_API_KEY, or omit the task")

    def load(self, name: str) -> LoadedTask:
        """Load a task with its rows; the first one is read and put into a prompt.

        Raises:
            InputError: its data is not available here, or its rows lack a column.
            UnsupportedError: it does not generate its answers in one turn.
        """
        from jinja2 import UndefinedError

        self.check([name])
        configs = list(self._configs(name))
        for config in configs:
            _check_data(name, config)
        try:
            loaded = self._manager.load_task_or_group([name], task_type="chat")
            parts = dict(_leaves(loaded))
            for part, task in parts.items():
                _check_rows(part, task)
        except (UndefinedError, KeyError) as error:
            raise InputError(
                f"{name}: its rows lack a column that its prompt or code reads, {error}; they have {_columns(configs[0])}"
            ) from error
        except FoveateError:
            raise
        except Exception as error:  # after five attempts lmms-eval raises a RetryError around the cause, which can be anything
            cause = getattr(error, "last_attempt", None)
            reason = cause.exception() if cause is not None else error
            raise InputError(f"the data of {name} is not available: {_first_line(reason)}") from error
        return LoadedTask(known(name), parts)

    def run(self, model: Any, task: LoadedTask, limit: int | None, submissions: Path) -> TaskResult:
        """Answer and score a task. Every failure is raised.

        Args:
            model: an lmms-eval model.
            task: as returned by `load`.
            limit: questions of each part; `None` for all.
            submissions: folder for files that tasks write for evaluation servers.
        """
        from lmms_eval.evaluator import simple_evaluate

        arguments = SimpleNamespace(output_path=str(submissions), process_with_media=False, reasoning_tags=None)
        with _quiet():
            results = simple_evaluate(
                model=model,
                tasks=list(task.parts.values()),
                task_manager=self._manager,
                limit=limit,
                bootstrap_iters=0,
                log_samples=True,
                cli_args=arguments,
                verbosity="ERROR",
                process_docs_parallel=1,
            )
        return _outcome(task, results)

    def _configs(self, name: str) -> Iterator[Mapping[str, Any]]:
        """The configurations of a task, or of all parts of a group, without their rows."""
        entry = self._manager.task_index[name]
        config = self._manager._get_config(name) if entry["yaml_path"] != -1 else {"task": entry["task"]}
        parts = config.get("task")
        if not isinstance(parts, list):
            yield config
            return
        for part in parts:
            if isinstance(part, str) and part in self._manager.task_index:
                yield from self._configs(part)
            elif isinstance(part, dict):
                yield part


def require() -> None:
    """Check that lmms-eval is installed, and silence its output and that of `datasets`.

    Raises:
        UnsupportedError: lmms-eval or one of its requirements is not installed.
    """
    try:
        import datasets
        import lmms_eval.evaluator  # noqa: F401 - it needs more than the package itself
        from loguru import logger
    except ImportError as error:
        raise UnsupportedError(f"lmms-eval cannot be imported ({error}); install it: {INSTALL}") from error
    datasets.disable_progress_bars()
    logger.disable("lmms_eval")


def has_judge() -> bool:
    """Whether an API key for a judge model is set."""
    return any(os.environ.get(name) for name in JUDGE_KEYS)


def _check_data(name: str, config: Mapping[str, Any]) -> None:
    """Check that the rows are here or can be fetched: offline, lmms-eval would retry for a minute and then report only the retries."""
    path = config.get("dataset_path")
    if not isinstance(path, str) or path in LOCAL or Path(path).expanduser().exists():
        return
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        datasets.load_dataset_builder(path, config.get("dataset_name"))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise InputError(
            f"{name} needs the data set {path} from the Hugging Face hub, which cannot be reached or is not cached here "
            f"({_first_line(error)}); run it once with a network, or set HF_HOME to a folder that has it; "
            f"the suites scenes and stand-ins need no network"
        ) from error


def _check_rows(name: str, task: Any) -> None:
    """Put the first row into a prompt, to find a missing column before anything is answered."""
    if task.OUTPUT_TYPE != "generate_until":
        raise UnsupportedError(f"{name} is of the kind {task.OUTPUT_TYPE!r}; foveate runs tasks that generate their answers in one turn")
    rows = task.eval_docs
    if not len(rows):
        raise InputError(f"{name} has no rows")
    task.doc_to_messages(rows[0])
    task.doc_to_target(rows[0])


def _columns(config: Mapping[str, Any]) -> str:
    """The columns of a task's rows, for a message."""
    import datasets

    given = config.get("dataset_kwargs") or {}
    files = {"data_files": given["data_files"]} if "data_files" in given else {}
    split = config.get("test_split") or config.get("validation_split")
    rows = datasets.load_dataset(config["dataset_path"], config.get("dataset_name"), split=split, streaming=True, **files)
    return ", ".join(next(iter(rows)))


def _leaves(loaded: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in loaded.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield str(name), value


def _outcome(task: LoadedTask, results: Mapping[str, Any]) -> TaskResult:
    metrics: dict[str, float] = {}
    samples: list[ScoredAnswer] = []
    scores: list[float] = []
    for part, loaded in task.parts.items():
        found = {key.partition(",")[0]: value for key, value in results["results"][part].items() if isinstance(value, int | float)}
        found = {key: float(value) for key, value in found.items() if "_stderr" not in key and key != "samples"}
        metrics |= {f"{part} {key}": value for key, value in found.items()}
        wanted = _wanted(task, loaded, found)
        if not wanted:
            raise InputError(f"{part} returned none of the metrics that make up its score; it returned {', '.join(found) or 'none'}")
        scores.append(sum(found[metric] for metric in wanted))
        samples += [_sample(part, loaded, wanted, logged) for logged in results["samples"][part]]
    return TaskResult(sum(scores) / len(scores), metrics, tuple(samples))


def _wanted(task: LoadedTask, part: Any, found: Mapping[str, float]) -> list[str]:
    """The metrics whose sum is the score: the known ones of this task, else the first of the task's list that was computed."""
    listed = [metric["metric"] for metric in part.config.metric_list or []]
    if task.benchmark.metrics:
        return [metric for metric in task.benchmark.metrics if metric in found]
    return [metric for metric in (*listed, *found) if metric in found][:1]


def _sample(part: str, task: Any, wanted: Sequence[str], logged: Mapping[str, Any]) -> ScoredAnswer:
    values = {metric: logged[metric] for metric in wanted if metric in logged}
    score = next((_score(task, metric, value) for metric, value in values.items()), None)
    answer = logged["filtered_resps"][0]
    return ScoredAnswer(f"{part} {logged['doc_id']}", answer if isinstance(answer, str) else str(answer), str(logged["target"]), score)


def _score(task: Any, metric: str, value: Any) -> float | None:
    """One question's score: a number, an entry called "score", or what the task's own aggregation makes of this question alone."""
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, Mapping) and isinstance(value.get("score"), int | float):
        return float(value["score"])
    aggregate = task.aggregation().get(metric)
    if aggregate is None or "args" in inspect.signature(aggregate).parameters:
        return None
    try:
        alone = aggregate([value])
    except Exception:  # a function of the task, which may need many questions or all: then single questions have no score
        return None
    return float(alone) if isinstance(alone, int | float) else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the progress bars of lmms-eval, because foveate shows its own."""
    import lmms_eval.api.task as tasks
    import lmms_eval.evaluator as evaluator

    places = [(module, module.tqdm) for module in (tasks, evaluator)]
    for module, bar in places:
        module.tqdm = _silent(bar)
    try:
        yield
    finally:
        for module, bar in places:
            module.tqdm = bar


def _silent(bar: Any) -> Any:
    return lambda *args, **kwargs: bar(*args, **{**kwargs, "disable": True})


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
