"""`foveate draw`: the picture of which tokens were kept, from a saved report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from foveate.cli import console
from foveate.cli.adapter import argument, option
from foveate.cli.checks import PICTURES, check_output, check_outputs, model_files, write
from foveate.cli.options import LinesOption, PixelLimit
from foveate.errors import InputError

__all__ = ["Draw"]


@dataclass(frozen=True, kw_only=True)
class Draw(LinesOption, PixelLimit):
    """Draw which tokens were kept, from a saved report."""

    report: Annotated[Path, argument("Report that foveate ask --report or Report.save wrote.", "REPORT")]
    image: Annotated[Path, argument("Picture file.", "IMAGE")]
    out: Annotated[Path, argument("Picture to write, as PNG, JPEG or WebP.", "OUT")]
    index: Annotated[int, option("Which image of the report, counted from 0.", "N", min=0)] = 0
    crop: Annotated[
        Literal["center-square", "pad-square", "whole", "auto"] | None,
        option("What the model saw, instead of --model: center-square, pad-square or whole.", "NAME"),
    ] = None
    model: Annotated[str | None, option("The model that was asked; its processor says where tokens lie.", "NAME")] = None
    panels: Annotated[bool, option("Draw every step, or only the last.", name="--panels/--last-panel")] = True
    grid: Annotated[bool, option("Draw the token grid.", name="--grid/--no-grid")] = True

    def run(self) -> None:
        """Draw, and write the picture.

        Raises:
            InputError: a file is not what it should be, or the report is of a video.
        """
        check_output(self.out, "picture", PICTURES)
        check_outputs([self.out], [self.report, self.image, *model_files(self.model)])
        from foveate import draw
        from foveate.files.writing import write_picture
        from foveate.images import load_image

        saved = draw.read_report(self.report)
        if self.index < len(saved.images) and saved.images[self.index].grid[0] > 1:
            raise InputError(f"image {self.index} of {self.report} is a video; draw it from Python, with foveate.draw.kept and its frames")
        loaded = load_image(self.image, max_pixels=self.max_pixels)
        places, notes = self._places()
        with console.spinner("drawing"):
            picture = draw.kept(saved, loaded.image, index=self.index, lines=self.lines, panels=self.panels, grid=self.grid, **places)
            write(self.out, "picture", lambda path: write_picture(path, picture))
        console.put(f"written: {self.out}")
        for text in (*loaded.notes, *notes):
            console.note(text)

    def _places(self) -> tuple[dict[str, Any], list[str]]:
        """What says where the tokens lie, as options of `kept`, and a note where nothing does."""
        if self.crop == "auto":
            console.note("--crop auto is an old spelling, and still works; omit it")
        crop = None if self.crop == "auto" else self.crop
        if self.model is None:
            unknown = "where these tokens lie in the picture is not known, so they are drawn beside it; pass --model or --crop"
            return ({}, [unknown]) if crop is None else ({"crop": crop}, [])
        if crop is not None:
            raise InputError(f"--crop {crop} contradicts --model, which knows it; omit one of them")
        from foveate.chat.models import load_config, load_processor

        with console.spinner(f"loading the processor of {self.model}"):
            return {"model": load_config(self.model), "processor": load_processor(self.model)}, []
