"""What the file of a report contains, with limits far above any real report: see `foveate.report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import FailFast, Field

from foveate.files.records import Count, RecordSchema, Seconds

__all__ = ["REPORT_FORMAT", "GRID_CELLS", "IMAGE", "REPORT", "STAGE", "Grid", "ImageRecord", "ReportRecord", "StageRecord"]

REPORT_FORMAT = 1
GRID_CELLS = 2**20
"""The most tokens of one image or video."""
_STAGES = 256
_METHOD = 2000

Side = Annotated[int, Field(ge=1, le=GRID_CELLS)]
Grid = tuple[Side, Side, Side]
"""Frames, rows and columns."""
_Place = Annotated[int, Field(ge=-1, le=2**40)]
_Target = Annotated[list[_Place], FailFast(), Field(max_length=GRID_CELLS)]


@dataclass(frozen=True)
class StageRecord:
    """As `Stage.to_dict` writes it."""

    method: Annotated[str, Field(max_length=_METHOD)]
    layer: Annotated[int, Field(ge=0, le=2**20)]
    plan: _Target


@dataclass(frozen=True)
class ImageRecord:
    """As `ImageReport.to_dict` writes it; the first version of reports had neither parts nor kind."""

    row: Count
    position: Count
    grid: Grid
    plan: _Target
    stages: Annotated[list[StageRecord], FailFast(), Field(max_length=_STAGES)]
    parts: Annotated[tuple[Grid, ...], FailFast(), Field(min_length=1, max_length=GRID_CELLS)] = ()
    kind: Literal["image", "video"] = "image"


@dataclass(frozen=True)
class ReportRecord:
    """As `Report.to_dict` writes it."""

    images: Annotated[list[ImageRecord], FailFast()]
    cache_bytes_before: Count
    cache_bytes_after: Count
    method_seconds: Seconds
    columns: tuple[Annotated[tuple[_Place, ...], FailFast()], ...]


_WHAT, _REMEDY = "a foveate report", "save one with Report.save"
REPORT: RecordSchema[ReportRecord] = RecordSchema(_WHAT, ReportRecord, {"format": REPORT_FORMAT}, _REMEDY)
IMAGE: RecordSchema[ImageRecord] = RecordSchema(_WHAT, ImageRecord)
STAGE: RecordSchema[StageRecord] = RecordSchema(_WHAT, StageRecord)
