"""`foveate draw`: the picture from a saved report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.cli import console
from foveate.cli.checks import PICTURES, check_output, check_outputs, model_files, write
from foveate.cli.subject import sized
from foveate.errors import InputError
from foveate.files.writing import write_picture

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
    where, notes = _where(look)
    with console.spinner("drawing"):
        picture = drawing.kept(saved, loaded.image, index=look.index, lines=look.lines, panels=look.panels, grid=look.grid, **where)
        write(out, "picture", lambda path: write_picture(path, picture))
    console.put(f"written: {out}")
    for text in (*loaded.notes, *notes):
        console.note(text)


def _where(look: Drawing) -> tuple[dict[str, Any], list[str]]:
    """How it is told where the tokens lie, as options of `kept`, and what to say about it."""
    if look.model is not None:
        from foveate.chat.models import load_config, load_processor

        if look.crop != "auto":
            raise InputError(f"--crop {look.crop} beside --model, which says it already; leave one of them out")
        with console.spinner(f"loading the processor of {look.model}"):
            return {"model": load_config(look.model), "processor": load_processor(look.model)}, []
    if look.crop == "auto":
        return {}, ["where these tokens lie in the picture is not known, so they are drawn beside it; pass --model or, if you know, --crop"]
    return {"crop": look.crop}, []
