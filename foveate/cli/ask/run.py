"""One question about one picture or video, with compressed visual tokens and, to compare, without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from foveate.chat.models import DEMO_NOTE
from foveate.cli import console
from foveate.cli.checks import PICTURES, check_output, check_outputs, check_question, model_files, write
from foveate.cli.specs import is_no_method, method_of
from foveate.cli.subject import cropping_notes, enough_memory, load, read, where_tokens_lie
from foveate.errors import InputError
from foveate.files.writing import write_picture

if TYPE_CHECKING:
    from foveate.chat.models import Prompt, Subject
    from foveate.chat.timed_answers import TimedAnswers
    from foveate.chat.visuals import VisualInput
    from foveate.cli.ask.command import Ask
    from foveate.method import Method
    from foveate.report import Report

__all__ = ["ask"]


def ask(request: Ask) -> None:
    """Run the command.

    Raises:
        FoveateError: whatever is wrong with the request; nothing has been printed to stdout.
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
    notes += [*prompt.notes, *cropping_notes(subject, shown, seen, prompt.visual), *([DEMO_NOTE] if subject.is_demo else [])]
    if outcome.report is not None:
        notes += _save(request, outcome.report, shown, subject)
    if request.as_json:
        console.put_json(_as_json(request, shown, subject, prompt, method, outcome, notes))
    else:
        _print(request, method, outcome, notes)


def _method(request: Ask) -> Method | None:
    if not is_no_method(request.method):
        return method_of(request.method, request.budget, request.layer, request.seed, request.settings, clamp=request.clamp)
    unused = {"--picture": request.picture, "--report": request.report, "--compare": request.compare, "--set": request.settings}
    for option, value in unused.items():
        if value:
            raise InputError(f"{option} needs a method, and --method none runs the full model; name a method, or omit {option}")
    return None


def _check_outputs(request: Ask) -> None:
    if request.picture:
        check_output(request.picture, "picture", PICTURES)
    if request.report:
        check_output(request.report, "report")
    check_outputs([request.picture, request.report], [request.image, *model_files(request.model)])


def _answer(request: Ask, subject: Subject, prompt: Prompt, method: Method | None) -> TimedAnswers:
    from foveate.chat.timed_answers import answer

    with enough_memory(subject):
        return answer(subject, prompt, method, compare=request.compare, new_tokens=request.max_new_tokens, repeat=request.repeats)


def _save(request: Ask, report: Report, shown: VisualInput, subject: Subject) -> list[str]:
    """Write the files that were asked for; returns what the user may want to know about them."""
    notes: list[str] = []
    if request.report:
        write(request.report, "report", report.save)
    if request.picture:
        from foveate import draw

        with console.spinner("drawing"):
            pictures = shown.pictures[0] if shown.video is None else shown.pictures
            where, notes = where_tokens_lie(subject, shown, report.images)
            drawn = draw.kept(report, pictures, lines=request.lines, **where)
            write(request.picture, "picture", lambda path: write_picture(path, drawn))
    return notes


def _print(request: Ask, method: Method | None, outcome: TimedAnswers, notes: Sequence[str]) -> None:
    from foveate.cli.ask.table import results_table

    console.put(outcome.first.answer or "(no answer: the model stopped at once)", style="bold green")
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


def _how_measured(request: Ask) -> str:
    runs = "single runs" if request.repeats == 1 else f"medians of {request.repeats} runs"
    if request.compare:
        return f"times are {runs} on this machine, after one warm-up of each"
    if request.repeats > 1:
        return f"times are {runs} on this machine"
    return "times are those of one cold run on this machine; --compare warms up first and also runs the full model"


def _as_json(
    request: Ask, shown: VisualInput, subject: Subject, prompt: Prompt, method: Method | None, outcome: TimedAnswers, notes: Sequence[str]
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
        "repeat": request.repeats,
        "picture": str(request.picture) if request.picture else None,
        "report": str(request.report) if request.report else None,
        "notes": list(notes),
    }
