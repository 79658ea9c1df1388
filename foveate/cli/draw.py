"""`foveate draw`: the picture of which tokens were kept, from a saved report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from foveate.cli import console
from foveate.cli.checks import PICTURES, check_output, check_outputs, model_files, write
from foveate.cli.options import LinesOption, PixelLimit
from foveate.errors import InputError

__all__ = ["Draw"]


@dataclass(frozen=True, kw_only=True)
class Draw(LinesOption, PixelLimit):
    """Draw which tokens were kept, from a saved report."""

    report: Annotated[
        Path, typer.Argument(metavar="REPORT", help="Report that foveate ask --report or Report.save wrote.", show_default=False)
    ]
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="Picture file.", show_default=False)]
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Picture to write, as PNG, JPEG or WebP.", show_default=False)]
    index: Annotated[int, typer.Option(min=0, help="Which image of the report, counted from 0.", metavar="N")] = 0
    crop: Annotated[
        Literal["center-square", "pad-square", "whole", "auto"] | None,
        typer.Option(help="What the model saw, instead of --model: center-square, pad-square or whole.", metavar="NAME"),
    ] = None
    model: Annotated[str | None, typer.Option(help="The model that was asked; its processor says where tokens lie.", metavar="NAME")] = None
    panels: Annotated[bool, typer.Option("--panels/--last-panel", help="Draw every step, or only the last.")] = True
    grid: Annotated[bool, typer.Option("--grid/--no-grid", help="Draw the token grid.")] = True

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
