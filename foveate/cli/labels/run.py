"""What the answers to the questions of a data set rest on, for a compressor to learn from."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from foveate.cli import console
from foveate.errors import FoveateError, UnsupportedError, WriteError

if TYPE_CHECKING:
    from foveate.chat.models import Subject
    from foveate.cli.labels.command import Labels
    from foveate.explain.labels.label_files import Counts, LabelsInfo
    from foveate.explain.labels.samples import LabelSample, SampleSource

__all__ = ["SCENES", "labels"]

SCENES = "scenes"
_DEFAULT_FRAMES = 8
_NOTE_SECONDS = 60.0
_PATIENCE = timedelta(days=7)
"""How long processes wait for each other at the end: one may have much longer videos to label than another."""


def labels(request: Labels) -> None:
    """Make labels; resumes a stopped run.

    Raises:
        FoveateError: whatever is wrong with the request; samples that cannot be used are skipped and listed instead.
    """
    _check_packages()
    from foveate.explain.labels.labelling import check_folder
    from foveate.files.locks import check_free

    check_folder(request.out)
    if int(os.environ.get("RANK", "0")) == 0:
        check_free(request.out)
    processes = _processes(request.device)
    try:
        _run(request, processes)
    except FoveateError as error:
        if processes.process_index == 0 or isinstance(error, WriteError):
            raise
        raise SystemExit(1) from None  # all processes fail alike, and one message is enough


def _run(request: Labels, processes: Any) -> None:
    from foveate.chat.models import load_model
    from foveate.explain.labels.labeller import Labeller
    from foveate.explain.labels.labelling import make_labels

    first = processes.process_index == 0
    source = _source(request, processes) if request.data != SCENES else None
    device = str(processes.device) if request.device == "auto" else request.device
    subject = load_model(request.model, request.dtype, device, compress=True, video=source is not None and _is_video(source))
    source = source or _scenes(request, subject)
    labeller = Labeller(subject.model, subject.processor, _prompt(subject, request.max_new_tokens), _choice(request))
    info = _info(request, subject, source)
    if first:
        console.note(f"the labels go to {request.out}; the same command resumes a stopped run")
    with _progress(len(source)) if first else _silence() as progress:
        counts = make_labels(request.out, source, labeller, info, processes, progress)
    if first:
        console.put(f"written: {request.out} ({_summary(counts)})")


def _check_packages() -> None:
    missing = [package for package in ("accelerate", "datasets", "pyarrow") if find_spec(package) is None]
    if missing:
        raise UnsupportedError(f"making labels needs {', '.join(missing)}, which is not installed: pip install 'foveate[explain]'")


def _processes(device: str) -> Any:
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu", timeout=_PATIENCE)


def _source(request: Labels, processes: Any) -> SampleSource:
    from foveate.explain.labels.dataset_samples import Columns, DatasetSamples, open_dataset

    columns = Columns(request.image_column, request.video_column, request.question_column, request.answer_column)
    with processes.local_main_process_first():  # the first converts the data, the others find it converted
        data, origin = open_dataset(request.data, request.split, request.subset)
    frames = request.frames or _DEFAULT_FRAMES
    return DatasetSamples(data, origin, columns, limit=request.limit, seed=request.seed, frames=frames)


def _scenes(request: Labels, subject: Subject) -> SampleSource:
    """Questions about scenes as large as the model's pictures."""
    from foveate.explain.labels.scene_samples import SceneSamples
    from foveate.measure.scenes import own_language, side_of

    processor = subject.processor
    return SceneSamples(request.limit, request.seed, side_of(processor), spelled=not own_language(processor))


def _is_video(source: SampleSource) -> bool:
    described = source.describe()
    return described.get("video column") is not None and described.get("image column") is None


def _prompt(subject: Subject, new_tokens: int) -> Callable[[LabelSample], Mapping[str, Any]]:
    from foveate.chat.visuals import VisualInput

    def prompt(sample: LabelSample) -> Mapping[str, Any]:
        inputs: Mapping[str, Any] = subject.prompt(sample.question, VisualInput(sample.pictures, sample.video), new_tokens).inputs
        return inputs

    return prompt


def _choice(request: Labels) -> Any:
    from foveate.explain.labels.labeller import LabellingOptions

    return LabellingOptions(
        keep_all=request.keep_all,
        match=request.match,
        states=request.states,
        gradients=request.gradients,
        target=request.target,
        max_new_tokens=request.max_new_tokens,
        batch=request.batch,
    )


def _info(request: Labels, subject: Subject, source: SampleSource) -> LabelsInfo:
    from foveate.engine.identity import identity
    from foveate.explain.labels.label_files import LabelsInfo
    from foveate.explain.labels.labelling import ranges, versions

    return LabelsInfo(
        model=identity(subject.model),
        name=request.model,
        target=request.target,
        gradients=request.gradients,
        states=request.states,
        data=source.describe(),
        choice={
            "keep all": request.keep_all,
            "match": request.match,
            "longest answer": request.max_new_tokens,
            "dtype": subject.dtype,
        },
        shards=len(ranges(len(source))),
        versions=versions(),
    )


@contextmanager
def _silence() -> Iterator[None]:
    yield None


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Counts], object]]:
    """A bar on stderr with the rate and the time that remains; a line a minute if stderr is no terminal."""
    from rich.progress import MofNCompleteColumn, TextColumn, TimeElapsedColumn

    bar = console.progress_bar()
    if bar is None:
        yield _Notes(total)
        return
    bar.columns = (*bar.columns, MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeElapsedColumn())
    task = bar.add_task("labelling", total=total, rate="")
    pace = _Pace(total)

    def show(counts: Counts) -> None:
        bar.update(task, completed=counts.asked, description=f"{counts.kept} kept", rate=f"{pace.rate(counts.asked):.2f}/s")

    with bar:
        yield show


class _Pace:
    """How fast this run labels, counted from its first batch."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._start: tuple[float, int] | None = None

    def rate(self, asked: int) -> float:
        """Samples per second."""
        if self._start is None:
            self._start = time.monotonic(), asked
        seconds, before = self._start
        passed = time.monotonic() - seconds
        return (asked - before) / passed if passed else 0.0

    def left(self, asked: int) -> str:
        """Time that remains, in words."""
        rate = self.rate(asked)
        return f"{timedelta(seconds=round((self._total - asked) / rate))} left" if rate else "time left unknown"


class _Notes:
    """Reports progress once a minute."""

    def __init__(self, total: int) -> None:
        self._total, self._pace, self._last = total, _Pace(total), time.monotonic()

    def __call__(self, counts: Counts) -> None:
        rate = self._pace.rate(counts.asked)
        if time.monotonic() - self._last > _NOTE_SECONDS:
            self._last = time.monotonic()
            left = self._pace.left(counts.asked)
            console.note(f"{counts.asked} of {self._total} samples, {counts.kept} kept, {rate:.2f} samples/s, {left}")


def _summary(counts: Counts) -> str:
    wrong = f", {counts.wrong} answered wrong" if counts.wrong else ""
    skipped = f", {counts.skipped} skipped (skipped.jsonl says why)" if counts.skipped else ""
    return f"{counts.rows} rows from {counts.kept} of {counts.asked} samples{wrong}{skipped}"
