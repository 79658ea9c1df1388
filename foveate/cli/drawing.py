"""`foveate draw`: the picture from a saved report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foveate.cli import console
from foveate.cli.checks import PICTURES, check_output, check_outputs, model_files, write
from foveate.cli.subject import sized
from foveate.errors import InputError
from foveate.files import write_picture

if TYPE_CHECKING:
    from foveate.draw import Crop

__all__ = ["Drawing", "draw"]


@dataclass(frozen=True)
class Drawing:
    """How to draw; see the options of `foveate draw`."""

    index: int
    crop: str
    model: str | None
    panels: bool
    grid: bool
    lines: bool


def draw(report: Path, image: Path, out: Path, look: Drawing, max_pixels: int) -> None:
    """Run the command.

    Raises:
        InputError: if a file is not what it should be, or the report is of a video.
    """
    check_output(out, "picture", PICTURES)
    check_outputs([out], [report, image, *model_files(look.model)])
    from foveate import draw as drawing
    from foveate.images import load_image

    saved = drawing.read_report(report)
    if look.index < len(saved.images) and saved.images[look.index].grid[0] > 1:
        raise InputError(f"image {look.index} of {report} is a video; draw it from Python, with foveate.draw.kept and its frames")
    with sized():
        loaded = load_image(image, max_pixels=max_pixels)
    chosen, notes = _crop(look, loaded.image.size)
    with console.spinner("drawing"):
        picture = drawing.kept(saved, loaded.image, index=look.index, lines=look.lines, panels=look.panels, grid=look.grid, crop=chosen)
        write(out, "picture", lambda path: write_picture(path, picture))
    console.put(f"written: {out}")
    for text in (*loaded.notes, *notes):
        console.note(text)


def _crop(look: Drawing, size: tuple[int, int]) -> tuple[Crop, list[str]]:
    """Which part of a picture of `size` (width, height) the model saw, and what to say about it."""
    if look.model is not None:
        from foveate.cli.models import load_processor
        from foveate.draw import processor_crop

        with console.spinner(f"loading the processor of {look.model}"):
            processor = load_processor(look.model)
        return processor_crop(processor, size), []
    if look.crop == "auto" and size[0] != size[1]:
        return "auto", ["a square grid was taken to lie over the centred square, as CLIP has it; if not so, pass --model or --crop"]
    chosen: dict[str, Crop] = {"auto": "auto", "center-square": "center-square", "pad-square": "pad-square", "whole": None}
    return chosen[look.crop], []
