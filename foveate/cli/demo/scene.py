"""`foveate demo scene`: a picture to try it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from foveate.cli import console
from foveate.cli.adapter import argument, option
from foveate.cli.checks import PICTURES, check_output, write
from foveate.cli.options import JsonOption

__all__ = ["WriteScene"]


@dataclass(frozen=True, kw_only=True)
class WriteScene(JsonOption):
    """Write a scene that the embedded model was not trained on, and print questions about it."""

    out: Annotated[Path, argument("Picture to write, as PNG, JPEG or WebP.", "OUT")]
    seed: Annotated[int, option("Number of the scene.", "N", min=0)] = 0

    def run(self) -> None:
        """Write a held-out scene and print its questions with their answers.

        Raises:
            InputError: the file cannot be written.
        """
        check_output(self.out, "scene", PICTURES)
        from foveate.demo.scenes import scene
        from foveate.files.writing import write_picture

        made = scene(self.seed, split="held_out")
        write(self.out, "scene", lambda path: write_picture(path, made.image))
        if self.as_json:
            questions = [{"question": q.text, "answer": q.answer, "family": q.family} for q in made.questions]
            console.put_json({"image": str(self.out), "seed": self.seed, "questions": questions})
            return
        console.put_table(console.listing(("question", "answer", "family"), [(q.text, q.answer, q.family) for q in made.questions]))
        console.put(f"written: {self.out}")
