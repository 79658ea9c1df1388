"""The picture of which visual tokens stayed: `kept`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from foveate.draw.captions import bare, place_marks, where_notes
from foveate.draw.cells import PINK, Canvas, check_size, faded, paint, shade_for
from foveate.draw.page import LegendEntry, Tile, lay_out
from foveate.draw.panels import Panel, panels_of
from foveate.draw.panes import Pane, frames_of, laid_over, pictures_of
from foveate.draw.places import Crop
from foveate.errors import InputError, UsageError
from foveate.plan import Plan
from foveate.printable import described
from foveate.report import ImageReport, Report

__all__ = ["MAX_FRAMES", "kept", "read_report"]

MAX_FRAMES = 6
"""Most columns in a video's picture; a longer video is shown by evenly spaced frames."""

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
    model: Any = None,
    processor: Any = None,
    crop: Crop | None = None,
) -> Image.Image:
    """Draw which visual tokens of an image were kept, merged and dropped.

    Kept tokens are clear, dropped ones gray, and merged ones pink with a line to the token that they were merged into. What the model did
    not see of the image is dark and hatched. The model's family knows where tokens lie; if it does not, they are drawn next to the image.

    Args:
        report: a report, or the path of one that `Report.save` wrote.
        image: the whole image as it was given to the processor, even if the model sees several crops; for a video, its frames (at least
            as many as the report's grid has). If a model was given a video as one image per frame, they are drawn together as one video.
        index: which image of the report, if it has several.
        lines: draw the lines of merged tokens.
        panels: draw every step, starting with the original; otherwise only the last.
        grid: draw the token grid.
        model: the model, or its configuration; needs `processor`, too.
        processor: the processor that made the inputs, with the same settings.
        crop: instead of both, for an image with one part: what the model saw of it; see `foveate.draw.Crop`.

    Returns:
        An RGB picture with captions and a legend, to be saved or shown.

    Raises:
        UsageError: the report or the picture has the wrong type.
        InputError: the report is invalid, has no such image, or does not match the image, the model or the processor.
    """
    if not isinstance(report, Report | str | Path):
        raise UsageError(f"kept() takes a report, or the path of one, and then the picture; got {described(report)} for the report")
    report = report if isinstance(report, Report) else read_report(report)
    pictures = pictures_of(image)
    images = frames_of(report.images, _checked(report, index), len(pictures))
    entry = _joined(images)
    steps = panels_of(entry) if panels else panels_of(entry)[-1:]
    place, panes, frames, shown = laid_over(pictures, images, report.images, model, processor, crop, most=MAX_FRAMES)
    several = len(panes) > 1
    side = (_FRAME_SIDE if frames > 1 else _SMALL_SIDE) if several else _SIDE.get(len(steps), _SMALL_SIDE)
    canvases = [Canvas.fit(pane.region, pane.picture.size, side) for pane in panes]
    check_size([canvases[number] for number in shown], len(steps))
    shade = shade_for(panes[0].picture, canvases[0].region.box)

    def tile(step: Panel, number: int) -> Tile:
        pane, canvas = panes[number], canvases[number]
        painted = paint(pane.picture, canvas, pane.targets(step.plan), shade, lines=lines, grid=grid)
        return Tile(painted, f"{step.title}, {pane.name}", pane.counts(step.plan)) if several else Tile(painted, step.title, step.counts)

    if several:
        page = [[tile(step, number) for number in shown] for step in steps]
    else:
        tiles = [tile(step, 0) for step in steps]
        page = [tiles[at : at + _per_row(len(tiles))] for at in range(0, len(tiles), _per_row(len(tiles)))]
    if place.regions is None:
        page.insert(0, [bare(picture, _FRAME_SIDE) for picture in pictures[:_PER_ROW]])
    drawn = [canvases[number] for number in shown]
    notes = [*_notes(entry, panes, frames, len(shown), lines), *where_notes(place, drawn)]
    return lay_out(page, _legend(entry, drawn, shade, lines), notes)


def read_report(path: str | Path) -> Report:
    """Read a report from its JSON file.

    Raises:
        RecordError: there is no such file, or it is not a report; the message names the key.
    """
    return Report.load(path)


def _checked(report: Report, index: int) -> int:
    if not report.images:
        raise InputError("this report has no image: the last prefill had no visual tokens")
    if not 0 <= index < len(report.images):
        raise InputError(f"index={index}, but the report has {len(report.images)} image(s): 0..{len(report.images) - 1}")
    return index


def _joined(images: Sequence[ImageReport]) -> ImageReport:
    """A single image unchanged; several, which are the frames of a video, joined into one."""
    first, *others = images
    if not others:
        return first
    steps = zip(*(image.stages for image in images), strict=True)
    stages = tuple(replace(same[0], plan=_beside([stage.plan for stage in same])) for same in steps)
    plan = _beside([image.plan for image in images])
    if len(first.parts) > 1:
        return ImageReport(first.row, 0, (1, 1, len(plan)), plan, stages, tuple(part for image in images for part in image.parts))
    return ImageReport(first.row, 0, (len(images), *first.grid[1:]), plan, stages)


def _beside(plans: Sequence[Plan]) -> Plan:
    """One plan over the tokens of all images."""
    starts = itertools.accumulate((len(plan) for plan in plans), initial=0)
    targets = [[goal if goal < 0 else goal + start for goal in plan.to_list()] for plan, start in zip(plans, starts, strict=False)]
    return Plan.from_list(itertools.chain.from_iterable(targets))


def _per_row(panels: int) -> int:
    """Three side by side; four as two pairs."""
    return 2 if panels == 4 else _PER_ROW


def _legend(entry: ImageReport, canvases: Sequence[Canvas], shade: tuple[int, int, int], lines: bool) -> list[LegendEntry]:
    plan = entry.plan
    legend = [LegendEntry(f"kept: {plan.tokens_after}", None)]
    if plan.merged.numel():
        how = " (a line leads to the token that it was merged into)" if lines else ""
        legend.append(LegendEntry(f"merged: {plan.merged.numel()}{how}", PINK))
    if plan.dropped.numel():
        legend.append(LegendEntry(f"dropped: {plan.dropped.numel()}", faded(shade)))
    return legend + place_marks(canvases)


def _notes(entry: ImageReport, panes: Sequence[Pane], frames: int, shown: int, lines: bool) -> list[str]:
    notes = [f"{stage.method}, before decoder layer {stage.layer}" for stage in entry.stages]
    if len(panes) > shown:
        notes.append(f"{shown * frames // len(panes)} of {frames} frames are shown; the counts in the legend are those of all frames.")
    if len(panes) > 1 and lines:
        home = {token: number for number, pane in enumerate(panes) for token in pane.tokens}
        across = sum(home[token] != home[int(entry.plan.target[token])] for token in entry.plan.merged.tolist())
        if across:
            other = "frame" if frames > 1 else "rectangle"
            notes.append(f"{across} token{'s were' if across > 1 else ' was'} merged into a token of another {other}; no line is drawn.")
    return notes
