"""Checking what the user typed, before anything slow happens."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import typer

from foveate.errors import FoveateError, InputError
from foveate.files.limits import MAX_ASPECT, MAX_PIXELS
from foveate.files.paths import same_file

__all__ = [
    "LARGEST_SEED",
    "PICTURES",
    "check_output",
    "check_outputs",
    "check_question",
    "checked",
    "finite",
    "model_files",
    "model_label",
    "parse_image_size",
    "parse_keep",
    "parse_names",
    "parse_whole_numbers",
    "write",
]

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
"""Extensions that a picture can be written as."""

LARGEST_SEED = 2**63 - 1
"""What PyTorch takes."""


def parse_keep(text: str) -> int | float:
    """The value of --keep: an int is a number of tokens, a float is a share of them.

    Raises:
        typer.BadParameter: if it is neither.
    """
    text = str(text).strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise typer.BadParameter(f"{text!r} is neither a number of tokens, such as 128, nor a share in (0, 1], such as 0.25")


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """The value of --image-size, width and height in pixels; `None` where it is not given.

    Raises:
        InputError: it is neither a number nor two, or larger or thinner than a picture may be.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", text.strip().lower())
    if found is None or int(found[1]) < 1 or int(found[2] or 1) < 1:
        raise InputError(f"--image-size {text!r:.80} must be a number of pixels, such as 672, or WIDTHxHEIGHT, such as 1008x672")
    width, height = int(found[1]), int(found[2] or found[1])
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(
            f"--image-size {text!r:.80} is too large or too thin: at most {MAX_PIXELS / 1e6:g} megapixels, and one side {MAX_ASPECT} times "
            f"the other"
        )
    return width, height


def parse_whole_numbers(text: str) -> tuple[int, ...]:
    """The value of an option that takes whole numbers separated by commas.

    Raises:
        typer.BadParameter: it is something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no list of whole numbers, such as 192,128,64") from error


def parse_names(text: str) -> tuple[str, ...]:
    """The value of an option that takes names separated by commas.

    Raises:
        typer.BadParameter: there is none.
    """
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise typer.BadParameter(f"{text!r} names nothing; separate names by commas")
    return found


def checked(parse: Callable[[str], object]) -> Callable[[str | None], str | None]:
    """The callback of an option that `parse` must be able to read; the option keeps its text."""

    def check(text: str | None) -> str | None:
        if text is not None:
            parse(text)
        return text

    return check


def finite(value: float | None) -> float | None:
    """The value of an option that takes a number; a range alone admits NaN, and infinity if it has no upper end.

    Raises:
        typer.BadParameter: it is NaN or infinite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def check_question(question: str) -> str:
    """The question without surrounding space.

    Raises:
        InputError: nothing is asked, or the text is not valid Unicode.
    """
    if not question.strip():
        raise InputError('the question is empty; ask something, such as "What colour is the circle?"')
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the question is not UTF-8 text (at character {error.start}); check the terminal's encoding") from error
    return question.strip()


def check_output(path: Path, what: str, suffixes: Sequence[str] = ()) -> None:
    """Check that a file can be written there, before anybody waits for a model.

    Args:
        path: the file; an existing one will be replaced.
        what: what it is, for the message.
        suffixes: allowed extensions, lower case; empty for any.

    Raises:
        InputError: it cannot.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise InputError(f"cannot write the {what} as {path.name!r}: its name must end in one of {', '.join(suffixes)}")
    try:
        if path.is_dir():
            raise InputError(f"cannot write the {what} to {path}: it is a folder; name a file in it")
        if path.exists() and not path.is_file():
            raise InputError(f"cannot write the {what} to {path}: it is no regular file but a pipe or device; name a file")
        if path.is_symlink() and not path.exists():
            raise InputError(f"cannot write the {what} to {path}: it is a broken link; name a file")
        if not path.parent.is_dir():
            raise InputError(f"cannot write the {what} to {path}: there is no folder {path.parent}; create it first")
        if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
            raise InputError(f"cannot write the {what} to {path}: permission denied; name another place")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot write the {what} to {str(path)!r:.200}: {getattr(error, 'strerror', None) or error}") from error


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[Path]) -> None:
    """Check that no output replaces an input or another output, under whatever name.

    Raises:
        InputError: one does.
    """
    taken = [(path, "the input") for path in inputs]
    for path in outputs:
        if path is None:
            continue
        replaced = next((what for other, what in taken if same_file(path, other)), None)
        if replaced is not None:
            raise InputError(f"{path} would replace {replaced} of this command; name another file")
        taken.append((path, "another output"))


def model_files(name: str | None) -> list[Path]:
    """The files of a model that is a folder; they are inputs too."""
    try:
        folder = Path(name or os.devnull).expanduser()
        return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    except (OSError, ValueError, RuntimeError):  # loading the model reports what is wrong
        return []


def model_label(name: str) -> str:
    """A model's name without the place where it lies, as results record it."""
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else name


def write(path: Path, what: str, save: Callable[[Path], Any]) -> None:
    """Let `save` write a file.

    Raises:
        WriteError: it cannot be written after all: the disk is full, or the folder is gone.
        InputError: the same, if `save` raises an error of the system.
    """
    try:
        save(path)
    except FoveateError:
        raise
    except OSError as error:
        raise InputError(f"cannot write the {what} to {path}: {error.strerror or error}") from error
