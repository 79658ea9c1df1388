"""The picture of which visual tokens stayed: `kept`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from foveate.draw.cells import PINK, UNSEEN, Canvas, faded, paint, shade_for
from foveate.draw.geometry import Crop, seen_box
from foveate.draw.page import Mark, Tile, lay_out
from foveate.draw.panels import Panel, panels_of
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
        image: the image as it was given to the processor; for a video its frames (at least as many as the report's grid has). Where a
            model was given a video as one image per frame, they are drawn together, as one video.
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
    frames = _frames(image, entry)
    steps = panels_of(entry) if panels else panels_of(entry)[-1:]
    shown = _shown_frames(entry.grid[0])
    side = _FRAME_SIDE if entry.grid[0] > 1 else _SIDE.get(len(steps), _SMALL_SIDE)
    rows, columns = entry.grid[1:]
    canvas = Canvas.fit(seen_box(frames[0].size, crop, (rows, columns)), frames[0].size, (rows, columns), side)
    shade = shade_for(frames[0], canvas.box)

    def tile(step: Panel, frame: int) -> Tile:
        painted = paint(frames[frame], canvas, _targets_in_frame(step, frame, rows * columns), shade, lines=lines, grid=grid)
        if len(frames) == 1:
            return Tile(painted, step.title, step.counts)
        return Tile(painted, f"{step.title}, frame {frame + 1}", _frame_counts(step, frame, rows * columns))

    if len(frames) == 1:
        tiles = [tile(step, 0) for step in steps]
        page = [tiles[at : at + _per_row(len(tiles))] for at in range(0, len(tiles), _per_row(len(tiles)))]
    else:
        page = [[tile(step, frame) for frame in shown] for step in steps]
    return lay_out(page, _legend(entry, canvas, shade, lines), _notes(entry, canvas, shown, lines))


def read_report(path: str | Path) -> Report:
    """Read a report from its JSON file.

    Raises:
        InputError: if there is no such file or it is no report.
    """
    try:
        return Report.load(path)
    except FileNotFoundError as error:
        raise InputError(f"no such report file: {path}") from error
    except OSError as error:
        raise InputError(f"cannot read the report {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # not JSON, or JSON of another shape
        not_json = isinstance(error, UnicodeDecodeError | json.JSONDecodeError)
        detail = "it is not JSON" if not_json else f"{type(error).__name__}: {error}"
        raise InputError(f"{path} is not a foveate report ({detail}); save one with Report.save or --report") from error


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
    grid = (frames, *entry.grid[1:])
    steps = zip(*(image.stages for image in row), strict=True)
    stages = tuple(replace(same[0], plan=_beside([stage.plan for stage in same])) for same in steps)
    return ImageReport(entry.row, 0, grid, _beside([image.plan for image in row]), stages)


def _beside(plans: Sequence[Plan]) -> Plan:
    """One plan over the tokens of all."""
    starts = itertools.accumulate((len(plan) for plan in plans), initial=0)
    targets = [[goal if goal < 0 else goal + start for goal in plan.to_list()] for plan, start in zip(plans, starts, strict=False)]
    return Plan.from_list(itertools.chain.from_iterable(targets))


def _frames(image: Image.Image | Sequence[Image.Image], entry: ImageReport) -> list[Image.Image]:
    """One RGB picture per frame of the grid; a processor may have merged several frames of the video into each."""
    given = [image] if isinstance(image, Image.Image) else list(image)
    wanted = entry.grid[0]
    if len(given) < wanted or (wanted == 1 and len(given) > 1):
        raise InputError(f"the report is of {wanted} frame(s), but {len(given)} picture(s) were given; pass the frames as a list")
    if any(frame.size != given[0].size for frame in given):
        raise InputError(f"the frames differ in size: {sorted({frame.size for frame in given})}")
    return [given[(2 * frame + 1) * len(given) // (2 * wanted)].convert("RGB") for frame in range(wanted)]


def _shown_frames(frames: int) -> list[int]:
    if frames <= MAX_FRAMES:
        return list(range(frames))
    return [round(number * (frames - 1) / (MAX_FRAMES - 1)) for number in range(MAX_FRAMES)]


def _per_row(panels: int) -> int:
    """Three beside each other; four as two pairs."""
    return 2 if panels == 4 else _PER_ROW


def _targets_in_frame(step: Panel, frame: int, cells: int) -> list[int]:
    """Targets of one frame's cells as indices within that frame; those in other frames come out beyond it."""
    first = frame * cells
    inside = step.plan.to_list()[first : first + cells]
    return [goal if goal < 0 else goal - first if goal >= first else goal + len(step.plan) for goal in inside]


def _frame_counts(step: Panel, frame: int, cells: int) -> str:
    kept_here = ((step.plan.kept >= frame * cells) & (step.plan.kept < (frame + 1) * cells)).sum()
    return f"{cells} tokens" if step.plan.is_identity else f"{int(kept_here)} of {cells} tokens stay"


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


def _notes(entry: ImageReport, canvas: Canvas, shown: list[int], lines: bool) -> list[str]:
    notes = [f"{stage.method}, before decoder layer {stage.layer}" for stage in entry.stages]
    frames, cells = entry.grid[0], entry.grid[1] * entry.grid[2]
    if frames > len(shown):
        notes.append(f"{len(shown)} of {frames} frames are shown; the counts in the legend are those of all frames.")
    if frames > 1 and lines:
        across = sum(int(token) // cells != int(entry.plan.target[token]) // cells for token in entry.plan.merged)
        if across:
            notes.append(f"{across} tokens went into a token of another frame; those have no line.")
    return notes
