"""`foveate demo`: scenes, the model card, and training."""

from __future__ import annotations

from pathlib import Path

from foveate.cli import console
from foveate.cli.checks import PICTURES, check_output, write
from foveate.errors import InputError
from foveate.files.writing import write_picture

__all__ = ["card", "scene"]


def scene(out: Path, seed: int, as_json: bool) -> None:
    """Write a held-out scene and print its questions with their answers.

    Raises:
        InputError: if the file cannot be written.
    """
    check_output(out, "scene", PICTURES)
    from foveate.demo.scenes import scene as make

    made = make(seed, split="held_out")
    write(out, "scene", lambda path: write_picture(path, made.image))
    if as_json:
        questions = [{"question": q.text, "answer": q.answer, "family": q.family} for q in made.questions]
        console.put_json({"image": str(out), "seed": seed, "questions": questions})
        return
    console.put_table(console.listing(("question", "answer", "family"), [(q.text, q.answer, q.family) for q in made.questions]))
    console.put(f"written: {out}")


def card() -> None:
    """Print the card that lies beside the weights.

    Raises:
        InputError: if the package was installed without its weights.
    """
    from foveate import demo

    try:
        text = (demo.path() / "README.md").read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputError(f"there is no model card: {error}") from error
    console.put(text)
