"""The picture of which visual tokens stayed: `kept`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from foveate.draw.cells import PINK, UNSEEN, Canvas, check_size, faded, paint, shade_for
from foveate.draw.geometry import Crop, seen_box
from foveate.draw.page import Mark, Tile, lay_out
from foveate.draw.panels import Panel, panels_of
from foveate.draw.panes import Pane, panes_of
from foveate.errors import InputError
from foveate.plan import Plan
from foveate.report import ImageReport, Report

__all__ = ["MAX_FRAMES", "kept", "read_report"]

MAX_FRAMES = 6
"""Columns of a video's picture; of a longer video, frames at even distances are shown."""

_SIDE = {1: 720, 2: 660, 3: 620}  # pixels of the seen box's longer side, by panels in a row
_SMALL_SIDE = 520
_FRAME_SIDE = 340
_PER_ROW = 3


def kept(
    report: Report | str | Path,
    image: Image.Image | Sequence[Image.Image],
    *,
    index: int = 0,
    lines: bool = True,
    panels: bool = True,
    grid: bool = True,
    crop: Crop = "auto",
) -> Image.Image:
    """Draw which visual tokens of an image stayed, were merged, and left.

    Tokens that stay are clear, dropped ones gray, merged ones pink with a line to the token that they went to. What the model did not see
    of the image is dark and hatched.

    Args:
        report: a report, or the path of one that `Report.save` wrote.
        image: the image as it was given to the processor, all of it where the model is shown several crops; for a video its frames (at
            least as many as the report's grid has). Where a model was given a video as one image per frame, they are drawn together,
            as one video.
        index: which image of the report, when it has several.
        lines: draw the lines of merged tokens.
        panels: draw every step, from the original on; otherwise only the last.
        grid: draw the token grid.
        crop: which part of the image the grid lies over; see `foveate.draw.Crop`. `processor_crop(processor, image.size)` gives it exactly.

    Returns:
        An RGB picture with captions and a legend, to be saved or shown.

    Raises:
        InputError: if the report is none, has no such image, or does not fit the image.
    """
    report = report if isinstance(report, Report) else read_report(report)
    entry = _entry(report, index)
    if not isinstance(image, Image.Image):
        entry = _joined(report, entry, len(image))
    steps = panels_of(entry) if panels else panels_of(entry)[-1:]
    panes = panes_of(image, entry)
    shown = _shown(len(panes))
    several = len(panes) > 1
    side = (_FRAME_SIDE if entry.grid[0] > 1 else _SMALL_SIDE) if several else _SIDE.get(len(steps), _SMALL_SIDE)
    # Models that show a picture as several crops squeeze it into their shape.
    crop = None if crop == "auto" and len(entry.parts) > 1 else crop
    canvases = [Canvas.fit(seen_box(pane.picture.size, crop, pane.grid), pane.picture.size, pane.grid, side) for pane in panes]
    check_size([canvases[number] for number in shown], len(steps))
    shade = shade_for(panes[0].picture, canvases[0].box)

    def tile(step: Panel, number: int) -> Tile:
        pane, canvas = panes[number], canvases[number]
        painted = paint(pane.picture, canvas, pane.targets(step.plan), shade, lines=lines, grid=grid)
        return Tile(painted, f"{step.title}, {pane.name}", pane.counts(step.plan)) if several else Tile(painted, step.title, step.counts)

    if several:
        page = [[tile(step, number) for number in shown] for step in steps]
    else:
        tiles = [tile(step, 0) for step in steps]
        page = [tiles[at : at + _per_row(len(tiles))] for at in range(0, len(tiles), _per_row(len(tiles)))]
    return lay_out(page, _legend(entry, canvases[0], shade, lines), _notes(entry, panes, len(shown), lines))


def read_report(path: str | Path) -> Report:
    """Read a report from its JSON file.

    Raises:
        RecordError: if there is no such file or it is no report; the message names the key.
    """
    return Report.load(path)


def _entry(report: Report, index: int) -> ImageReport:
    if not report.images:
        raise InputError("this report has no image: the last prefill had no visual tokens")
    if not 0 <= index < len(report.images):
        raise InputError(f"index={index}, but the report has {len(report.images)} image(s): 0..{len(report.images) - 1}")
    return report.images[index]


def _joined(report: Report, entry: ImageReport, frames: int) -> ImageReport:
    """All images of the entry's row as one video of `frames` frames, if that is what they are."""
    row = [image for image in report.images if image.row == entry.row]
    if frames < 2 or len(row) != frames or any(image.grid != entry.grid or image.grid[0] != 1 for image in row):
        return entry
    if any(len(image.stages) != len(entry.stages) for image in row):
        return entry
    grid = (frames, *entry.grid[1:])
    steps = zip(*(image.stages for image in row), strict=True)
    stages = tuple(replace(same[0], plan=_beside([stage.plan for stage in same])) for same in steps)
    return ImageReport(entry.row, 0, grid, _beside([image.plan for image in row]), stages)


def _beside(plans: Sequence[Plan]) -> Plan:
    """One plan over the tokens of all."""
    starts = itertools.accumulate((len(plan) for plan in plans), initial=0)
    targets = [[goal if goal < 0 else goal + start for goal in plan.to_list()] for plan, start in zip(plans, starts, strict=False)]
    return Plan.from_list(itertools.chain.from_iterable(targets))


def _shown(panes: int) -> list[int]:
    if panes <= MAX_FRAMES:
        return list(range(panes))
    return [round(number * (panes - 1) / (MAX_FRAMES - 1)) for number in range(MAX_FRAMES)]


def _per_row(panels: int) -> int:
    """Three beside each other; four as two pairs."""
    return 2 if panels == 4 else _PER_ROW


def _legend(entry: ImageReport, canvas: Canvas, shade: tuple[int, int, int], lines: bool) -> list[Mark]:
    plan = entry.plan
    legend = [Mark(f"kept: {plan.tokens_after}", None)]
    if plan.merged.numel():
        how = " (a line leads to the token that took it in)" if lines else ""
        legend.append(Mark(f"merged: {plan.merged.numel()}{how}", PINK))
    if plan.dropped.numel():
        legend.append(Mark(f"dropped: {plan.dropped.numel()}", faded(shade)))
    if canvas.unseen:
        legend.append(Mark("not seen by the model" + (" (partly shown)" if canvas.trimmed else ""), UNSEEN, hatched=True))
    return legend


def _notes(entry: ImageReport, panes: Sequence[Pane], shown: int, lines: bool) -> list[str]:
    notes = [f"{stage.method}, before decoder layer {stage.layer}" for stage in entry.stages]
    if len(panes) > shown:
        notes.append(f"{shown} of {len(panes)} frames are shown; the counts in the legend are those of all frames.")
    if len(entry.parts) > 2:
        notes.append("How the crops lie is told by the picture's shape, to which the model's processor fits them.")
    if len(panes) > 1 and lines:
        home = {token: number for number, pane in enumerate(panes) for token in pane.tokens}
        across = sum(home[token] != home[int(entry.plan.target[token])] for token in entry.plan.merged.tolist())
        if across:
            other = "frame" if entry.grid[0] > 1 else "rectangle"
            notes.append(f"{across} tokens went into a token of another {other}; those have no line.")
    return notes
