"""What the last prefill did: `Report`, which goes to JSON and back."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foveate.files.report_form import IMAGE, REPORT, REPORT_FORMAT, STAGE, ImageRecord, ReportRecord, StageRecord
from foveate.files.writing import write_whole
from foveate.plan import Plan

__all__ = ["ImageReport", "Report", "Stage"]


@dataclass(frozen=True)
class Stage:
    """What one method did to one image: `method` (as text), its decoder `layer`, and the `plan` for the tokens that were left."""

    method: str
    layer: int
    plan: Plan

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return {"method": self.method, "layer": self.layer, "plan": self.plan.to_list()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Stage:
        """The inverse of `to_dict`.

        Raises:
            RecordError: `data` is not a stage; the message names the key.
        """
        return cls._made(STAGE.of(data, "the stage").value, "the stage", "")

    @classmethod
    def _made(cls, found: StageRecord, where: str, key: str) -> Stage:
        return cls(found.method, found.layer, _plan(found.plan, where, f"{key}plan"))


@dataclass(frozen=True)
class ImageReport:
    """One image (or video) of the last prefill.

    Attributes:
        row: row of the batch.
        position: the image's place among the images of its row.
        grid: (t, h, w), frames, rows and columns of its tokens; (1, 1, n) if there are several parts.
        plan: where each of its tokens went, over all methods of a schedule.
        stages: what each method did, in order.
        parts: (t, h, w) of each part of an image that is shown as several crops, in the order of its tokens; `(grid,)` by default.
        kind: "image" or "video".
    """

    row: int
    position: int
    grid: tuple[int, int, int]
    plan: Plan
    stages: tuple[Stage, ...] = ()
    parts: tuple[tuple[int, int, int], ...] = ()
    kind: Literal["image", "video"] = "image"

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", self.parts or (self.grid,))

    @property
    def tokens_before(self) -> int:
        """Visual tokens that entered the language model."""
        return len(self.plan)

    @property
    def tokens_after(self) -> int:
        """Visual tokens that remain after the last method."""
        return self.plan.tokens_after

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return {
            "row": self.row,
            "position": self.position,
            "kind": self.kind,
            "grid": list(self.grid),
            "parts": [list(part) for part in self.parts],
            "plan": self.plan.to_list(),
            "stages": [stage.to_dict() for stage in self.stages],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImageReport:
        """The inverse of `to_dict`.

        Raises:
            RecordError: `data` is not the report of an image, or its grid, parts, plan and stages contradict each other; the message
                names the key.
        """
        return cls._made(IMAGE.of(data, "the report of an image").value, "the report of an image", "")

    @classmethod
    def _made(cls, found: ImageRecord, where: str, key: str) -> ImageReport:
        plan = _plan(found.plan, where, f"{key}plan")
        stages = tuple(Stage._made(stage, where, f"{key}stages[{number}].") for number, stage in enumerate(found.stages))
        image = cls(found.row, found.position, found.grid, plan, stages, found.parts, found.kind)
        problem = image._contradiction()
        if problem:
            raise REPORT.refusal(where, f"{key}{problem}")
        return image

    def _contradiction(self) -> str | None:
        """Which key does not fit the others, and why; `None` if all do."""
        total = len(self.plan)
        if math.prod(self.grid) != total:
            return f"plan is for {total} tokens, but grid {'x'.join(map(str, self.grid))} has {math.prod(self.grid)} cells"
        if sum(math.prod(part) for part in self.parts) != total:
            return f"parts have {sum(math.prod(part) for part in self.parts)} cells, but plan is for {total} tokens"
        composed = Plan.identity(total)
        before = -1
        for number, stage in enumerate(self.stages):
            if stage.layer <= before:
                return f"stages[{number}].layer should be above {before}, the layer of the stage before it, not {stage.layer}"
            if len(stage.plan) != composed.tokens_after:
                return f"stages[{number}].plan is for {len(stage.plan)} tokens, but {composed.tokens_after} are left before it"
            composed, before = composed.then(stage.plan), stage.layer
        if self.stages and composed != self.plan:
            return "plan is not what the stages make together"
        return None


@dataclass(frozen=True)
class Report:
    """What the last prefill did. `str(report)` is for people, `to_json` for programs.

    Attributes:
        images: one entry per image, in the order of rows and prompts; empty for text alone.
        cache_bytes_before: bytes of the key/value cache after the prefill without compression, without padding.
        cache_bytes_after: bytes of the key/value cache that remain, without padding. Both are 0 if no cache is used.
        method_seconds: time to compute signals and plans, in seconds.
        columns: for each row, the input column of each position that remains after the last method; -1 is padding.
            Position i of a plain forward's logits belongs to input column `columns[row][i]`.
    """

    images: tuple[ImageReport, ...] = ()
    cache_bytes_before: int = 0
    cache_bytes_after: int = 0
    method_seconds: float = 0.0
    columns: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def tokens_before(self) -> int:
        """Visual tokens of all images that entered the language model."""
        return sum(image.tokens_before for image in self.images)

    @property
    def tokens_after(self) -> int:
        """Visual tokens of all images that remain after the last method."""
        return sum(image.tokens_after for image in self.images)

    def __str__(self) -> str:
        if not self.images:
            return "no visual tokens in the last prefill"
        lines = [f"visual tokens   {self.tokens_before} -> {self.tokens_after} in {len(self.images)} image(s)"]
        if self.cache_bytes_before:
            saved = 1 - self.cache_bytes_after / self.cache_bytes_before
            lines.append(
                f"key/value cache {self.cache_bytes_before / 2**20:.2f} -> {self.cache_bytes_after / 2**20:.2f} MiB ({saved:.1%} smaller)"
            )
        lines.append(f"method time     {self.method_seconds * 1e3:.1f} ms")
        lines += [f"  row {i.row}, image {i.position}: grid {'x'.join(map(str, i.grid))}, {i.plan!r}" for i in self.images]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return {
            "format": REPORT_FORMAT,
            "images": [image.to_dict() for image in self.images],
            "cache_bytes_before": self.cache_bytes_before,
            "cache_bytes_after": self.cache_bytes_after,
            "method_seconds": self.method_seconds,
            "columns": [list(row) for row in self.columns],
        }

    def to_json(self) -> str:
        """The report as one JSON document."""
        return json.dumps(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, completely or not at all.

        Raises:
            WriteError: the file cannot be written; an earlier one is unchanged.
        """
        write_whole(path, self.to_json())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The inverse of `to_dict`.

        Raises:
            RecordError: `data` is not a report in a format that this version reads, or contradicts itself; the message names the key.
        """
        return cls._made(REPORT.of(data, "this dictionary").value, "this dictionary")

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The inverse of `to_json`.

        Raises:
            RecordError: as `from_dict`, or `text` is not JSON.
        """
        return cls._made(REPORT.parse(text, "this text").value, "this text")

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what `save` wrote.

        Raises:
            RecordError: as `from_json`, or the file does not exist, cannot be read, is not a regular file, or is larger than a report
                can be.
        """
        document = REPORT.read(path)
        return cls._made(document.value, document.where)

    @classmethod
    def _made(cls, found: ReportRecord, where: str) -> Report:
        images = tuple(ImageReport._made(image, where, f"images[{number}].") for number, image in enumerate(found.images))
        rows = found.columns
        uneven = next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), None)
        if uneven is not None:
            raise REPORT.refusal(where, f"columns[{uneven}] should have {len(rows[0])} entries as columns[0] has, not {len(rows[uneven])}")
        return cls(images, found.cache_bytes_before, found.cache_bytes_after, found.method_seconds, rows)


def _plan(target: list[int], where: str, key: str) -> Plan:
    try:
        return Plan.from_list(target)
    except ValueError as error:
        raise REPORT.refusal(where, f"{key}: {error}") from error
