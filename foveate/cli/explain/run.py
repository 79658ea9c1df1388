"""Which visual tokens the answer to one question rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from foveate.chat.models import DEMO_NOTE
from foveate.cli import console
from foveate.cli.checks import PICTURES, check_output, check_outputs, check_question, model_files, write
from foveate.cli.subject import cropping_notes, enough_memory, load, read, where_tokens_lie
from foveate.errors import InputError
from foveate.files.writing import write_picture

if TYPE_CHECKING:
    from foveate.chat.models import Prompt, Subject
    from foveate.chat.visuals import VisualInput
    from foveate.cli.explain.command import Explain
    from foveate.draw import Word
    from foveate.explain.relevance.result import ImageRelevance, Relevance

__all__ = ["explain"]


def explain(request: Explain) -> None:
    """Run the command.

    Raises:
        FoveateError: whatever is wrong with the request; nothing has been printed to stdout.
    """
    question = check_question(request.question)
    if request.picture:
        check_output(request.picture, "picture", PICTURES)
        check_outputs([request.picture], [request.image, *model_files(request.model)])
    if request.answer is not None and not request.answer.strip():
        raise InputError("the answer is empty, so there is nothing to explain; omit --answer to explain the model's own")
    with console.spinner("reading"):
        shown, notes = read(request.image, request.frames, request.max_pixels)
    subject = load(request.model, request.dtype, request.device, compress=True, video=shown.video is not None)
    given = None if request.answer is None else _tokens(subject, request.answer)
    prompt = subject.prompt(question, shown, request.max_new_tokens if given is None else len(given))
    with console.spinner("explaining"):
        found = _relevance(request, subject, prompt, given)
    notes += [*prompt.notes, *cropping_notes(subject, shown, found.images, prompt.visual), *([DEMO_NOTE] if subject.is_demo else [])]
    words = _words(subject, found)
    answer = subject.processor.decode(found.answers[0], skip_special_tokens=True).strip()
    if request.picture:
        notes += _draw(request, shown, subject, found, words, answer)
    if request.as_json:
        console.put_json(_as_json(request, subject, prompt, found, words, answer, notes))
    else:
        _print(request, found, words, answer, notes)


def _relevance(request: Explain, subject: Subject, prompt: Prompt, given: list[int] | None) -> Relevance:
    from foveate.chat.processors import refusals_of
    from foveate.explain.relevance.relevance import relevance

    with enough_memory(subject), refusals_of(subject.model):
        return relevance(
            subject.model,
            prompt.inputs,
            None if given is None else [given],
            target=request.target,
            gradients=request.gradients,
            max_new_tokens=request.max_new_tokens,
        )


def _tokens(subject: Subject, answer: str) -> list[int]:
    """The ids of an answer as it stands after a prompt."""
    from foveate.chat.processors import encode

    tokenizer = subject.processor.tokenizer
    ids = encode(tokenizer, answer.strip())
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids:
        raise InputError(f"the answer {answer!r} has a word that {subject.name} cannot say; use words of its vocabulary")
    return ids


def _words(subject: Subject, found: Relevance) -> list[Word]:
    """The answer's words; a token that begins with a space, or whose text does after the others, begins a word."""
    from foveate.draw import Word

    decode, ids = subject.processor.decode, found.answers[0].tolist()
    words: list[Word] = []
    before = ""
    for place in range(len(ids)):
        text = decode(ids[: place + 1], skip_special_tokens=True)
        added = text[len(before) :] if text.startswith(before) else text
        if added.strip() and (not words or added[0].isspace() or before[-1:].isspace()):
            words.append(Word(added.strip(), (place,)))
        elif words:
            words[-1] = Word(words[-1].text + added.strip(), (*words[-1].tokens, place))
        before = text
    return words


def _draw(request: Explain, shown: VisualInput, subject: Subject, found: Relevance, words: Sequence[Word], answer: str) -> list[str]:
    from foveate import draw

    assert request.picture is not None
    with console.spinner("drawing"):
        pictures = shown.pictures[0] if shown.video is None else shown.pictures
        where, notes = where_tokens_lie(subject, shown, found.images)
        drawn = draw.relevance(found, pictures, words, question=request.question.strip(), answer=answer, top=request.top, **where)
        write(request.picture, "picture", lambda path: write_picture(path, drawn))
    return notes


def _top(image: ImageRelevance, count: int) -> list[dict[str, Any]]:
    """The image's most relevant tokens, with their places on the grid where it has one."""
    mean = image.mean
    total = float(mean.sum())
    found = []
    for token in mean.argsort(descending=True, stable=True)[:count].tolist():
        part, frame, row, column = _place(image, token)
        share = float(mean[token]) / total if total else 0.0
        found.append(
            {"token": token, "part": part, "frame": frame, "row": row, "column": column, "relevance": float(mean[token]), "share": share}
        )
    return found


def _place(image: ImageRelevance, token: int) -> tuple[int, int, int, int]:
    """Which part, and frame, row and column in it, counted from 0."""
    for number, (frames, rows, columns) in enumerate(image.parts):
        if token < frames * rows * columns:
            return number, token // (rows * columns), token // columns % rows, token % columns
        token -= frames * rows * columns
    raise ValueError(f"token {token} lies beyond the parts {image.parts}")


def _print(request: Explain, found: Relevance, words: Sequence[Word], answer: str, notes: Sequence[str]) -> None:
    console.put(answer or "(an answer without words)", style="bold green")
    for number, image in enumerate(found.images):
        console.put("")
        if len(found.images) > 1:
            console.put(f"image {number}")
        rows = [
            [str(place), *(str(entry[name]) for name in ("row", "column")), _where(image, entry), f"{entry['share']:.1%}"]
            for place, entry in enumerate(_top(image, request.top), start=1)
        ]
        console.put_table(console.listing(["", "row", "column", "of", "share"], rows))
    if request.picture:
        console.put(f"written: {request.picture}")
    for text in notes:
        console.note(text)


def _where(image: ImageRelevance, entry: dict[str, Any]) -> str:
    frames, rows, columns = image.parts[entry["part"]]
    place = f"{rows} x {columns}"
    if len(image.parts) > 1:
        place += f", crop {entry['part']}"
    return place + (f", frame {entry['frame']}" if frames > 1 else "")


def _as_json(
    request: Explain, subject: Subject, prompt: Prompt, found: Relevance, words: Sequence[Word], answer: str, notes: Sequence[str]
) -> dict[str, Any]:
    visual = sum(image.tokens.shape[1] for image in found.images)
    return {
        "answer": answer,
        "question": request.question,
        "image": str(request.image),
        "model": subject.name,
        "device": subject.device,
        "dtype": subject.dtype,
        "visual_tokens": visual,
        "newlines": prompt.visual - visual,
        "prompt_tokens": prompt.length,
        "words": [{"text": word.text, "tokens": list(word.tokens)} for word in words],
        "top": [_top(image, request.top) for image in found.images],
        "relevance": found.to_dict(),
        "picture": str(request.picture) if request.picture else None,
        "notes": list(notes),
    }
