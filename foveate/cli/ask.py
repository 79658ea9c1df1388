"""`foveate ask`: one question about one picture or video, with compressed visual tokens and, to compare, without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveate.chat.models import DEMO_NOTE
from foveate.cli import console
from foveate.cli.checks import PICTURES, check_output, check_outputs, check_question, model_files, write
from foveate.cli.subject import load, read, told, unseen
from foveate.errors import InputError
from foveate.files.writing import write_picture

if TYPE_CHECKING:
    from foveate.chat.models import Prompt, Subject
    from foveate.chat.timed_answers import TimedAnswers
    from foveate.chat.visuals import VisualInput
    from foveate.method import Method
    from foveate.report import Report

__all__ = ["NO_METHOD", "Request", "ask"]

NO_METHOD = "none"


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of `foveate ask`."""

    image: Path
    frames: int | None
    question: str
    model: str
    method: str
    keep: int | float
    layer: int | None
    seed: int | None
    settings: tuple[str, ...]
    clamp: bool
    compare: bool
    repeat: int
    picture: Path | None
    lines: bool
    report: Path | None
    as_json: bool
    max_new_tokens: int
    dtype: str
    device: str
    max_pixels: int


def ask(request: Request) -> None:
    """Run the command.

    Raises:
        FoveateError: whatever is wrong with the request; nothing has been printed to stdout then.
    """
    question = check_question(request.question)
    _check_outputs(request)
    with console.spinner("reading"):
        shown, notes = read(request.image, request.frames, request.max_pixels)
    with console.spinner("getting ready"):
        method = _method(request)
    subject = load(request.model, request.dtype, request.device, compress=method is not None, video=shown.video is not None)
    prompt = subject.prompt(question, shown, request.max_new_tokens)
    with console.spinner("answering"):
        outcome = _answer(request, subject, prompt, method)
    seen = outcome.report.images if outcome.report is not None else ()
    notes += [*prompt.notes, *unseen(subject, shown, seen, prompt.visual), *([DEMO_NOTE] if subject.is_demo else [])]
    if outcome.report is not None:
        notes += _save(request, outcome.report, shown, subject)
    if request.as_json:
        console.put_json(_as_json(request, shown, subject, prompt, method, outcome, notes))
    else:
        _print(request, method, outcome, notes)


def _method(request: Request) -> Method | None:
    from foveate.methods.options import build_method

    if request.method.strip().lower() != NO_METHOD:
        return build_method(request.method, request.keep, request.layer, request.seed, request.settings, request.clamp)
    unused = {"--picture": request.picture, "--report": request.report, "--compare": request.compare, "--set": request.settings}
    for option, value in unused.items():
        if value:
            raise InputError(f"{option} needs a method; --method none runs the full model, which drops nothing")
    return None


def _check_outputs(request: Request) -> None:
    if request.picture:
        check_output(request.picture, "picture", PICTURES)
    if request.report:
        check_output(request.report, "report")
    check_outputs([request.picture, request.report], [request.image, *model_files(request.model)])


def _answer(request: Request, subject: Subject, prompt: Prompt, method: Method | None) -> TimedAnswers:
    import torch

    from foveate.chat.timed_answers import answer

    try:
        return answer(subject, prompt, method, compare=request.compare, new_tokens=request.max_new_tokens, repeat=request.repeat)
    except torch.OutOfMemoryError as error:
        raise InputError(f"{request.model} runs out of memory on {subject.device}: try --dtype bfloat16 or --device cpu") from error


def _save(request: Request, report: Report, shown: VisualInput, subject: Subject) -> list[str]:
    """Write what is to be written; what the user may want to know of it."""
    notes: list[str] = []
    if request.report:
        write(request.report, "report", report.save)
    if request.picture:
        from foveate import draw

        with console.spinner("drawing"):
            pictures = shown.pictures[0] if shown.video is None else shown.pictures
            where, notes = told(subject, shown, report.images)
            drawn = draw.kept(report, pictures, lines=request.lines, **where)
            write(request.picture, "picture", lambda path: write_picture(path, drawn))
    return notes


def _print(request: Request, method: Method | None, outcome: TimedAnswers, notes: Sequence[str]) -> None:
    from foveate.cli.table import results_table

    console.put(outcome.first.answer or "(no answer: the model ended at once)", style="bold green")
    if outcome.full and outcome.agree is not None:
        verdict = "the same answer" if outcome.agree else "a different answer"
        console.put(f"full model: {outcome.full.answer} ({verdict})", style="dim" if outcome.agree else "yellow")
    console.put("")
    console.put_table(results_table(method.name if method else "", outcome))
    console.put(_how_measured(request), style="dim")
    for written in (request.picture, request.report):
        if written:
            console.put(f"written: {written}")
    for text in notes:
        console.note(text)


def _how_measured(request: Request) -> str:
    runs = "single runs" if request.repeat == 1 else f"medians of {request.repeat} runs"
    if request.compare:
        return f"times are {runs} on this machine, after one warm-up of each"
    if request.repeat > 1:
        return f"times are {runs} on this machine"
    return "times are those of one cold run on this machine; --compare warms up first and shows the full model beside it"


def _as_json(
    request: Request,
    shown: VisualInput,
    subject: Subject,
    prompt: Prompt,
    method: Method | None,
    outcome: TimedAnswers,
    notes: Sequence[str],
) -> dict[str, Any]:
    return {
        "answer": outcome.first.answer,
        "agree": outcome.agree,
        "question": request.question,
        "image": str(request.image),
        "frames": None if shown.video is None else [round(time, 3) for time in shown.video.times],
        "model": subject.name,
        "device": subject.device,
        "dtype": subject.dtype,
        "method": {"name": method.name, **asdict(method)} if method else None,
        "visual_tokens": outcome.visual_tokens,
        "newlines": outcome.newlines,
        "prompt_tokens": prompt.length,
        "cache_bytes_before": outcome.cache_bytes_before,
        "compressed": asdict(outcome.compressed) if outcome.compressed else None,
        "full": asdict(outcome.full) if outcome.full else None,
        "warmed_up": request.compare,
        "repeat": request.repeat,
        "picture": str(request.picture) if request.picture else None,
        "report": str(request.report) if request.report else None,
        "notes": list(notes),
    }
