"""What the last prefill did: `Report`, which goes to JSON and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from foveate.files import write_whole
from foveate.plan import Plan

__all__ = ["ImageReport", "Report", "Stage"]

FORMAT = 1


@dataclass(frozen=True)
class Stage:
    """One cut of a schedule for one image: `method` (as text), its decoder `layer`, and the `plan` over the tokens still there."""

    method: str
    layer: int
    plan: Plan

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings."""
        return {"method": self.method, "layer": self.layer, "plan": self.plan.to_list()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Stage:
        """The inverse of `to_dict`."""
        return cls(data["method"], data["layer"], Plan.from_list(data["plan"]))


@dataclass(frozen=True)
class ImageReport:
    """One image (or video) of the last prefill.

    Attributes:
        row: row of the batch.
        position: the image's place among the images of its row.
        grid: (t, h, w), frames, rows and columns of its tokens; (1, 1, n) where there are several parts.
        plan: where each of its tokens went, over all cuts together.
        stages: the cuts one by one.
        parts: (t, h, w) of each part of an image that is shown as several crops, in the order of its tokens; `(grid,)` unless given.
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
        """Visual tokens that remain after the last cut."""
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
        """The inverse of `to_dict`."""
        frames, rows, columns = data["grid"]
        stages = tuple(Stage.from_dict(stage) for stage in data["stages"])
        parts = tuple((t, h, w) for t, h, w in data.get("parts", ()))
        kind = data.get("kind", "image")
        return cls(data["row"], data["position"], (frames, rows, columns), Plan.from_list(data["plan"]), stages, parts, kind)


@dataclass(frozen=True)
class Report:
    """What the last prefill did. `str(report)` is for people, `to_json` for programs.

    Attributes:
        images: one entry per image, in the order of rows and prompts; empty for text alone.
        cache_bytes_before: key/value bytes of the prefill without compression, padding not counted.
        cache_bytes_after: key/value bytes that remain, padding not counted. Both are 0 when no cache is used.
        method_seconds: time spent in computing signals and plans.
        columns: per row, the input column that each remaining position after the last cut comes from; -1 is padding.
            Position i of a plain forward's logits belongs to input column `columns[row][i]`.
    """

    images: tuple[ImageReport, ...] = ()
    cache_bytes_before: int = 0
    cache_bytes_after: int = 0
    method_seconds: float = 0.0
    columns: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def tokens_before(self) -> int:
        """Visual tokens of all images before."""
        return sum(image.tokens_before for image in self.images)

    @property
    def tokens_after(self) -> int:
        """Visual tokens of all images after."""
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
            "format": FORMAT,
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
        """Write `to_json` to a file, which is there whole or not at all.

        Raises:
            WriteError: it cannot be written; what was there is as it was.
        """
        write_whole(path, self.to_json())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Report:
        """The inverse of `to_dict`.

        Raises:
            ValueError: if `data` is not a report of a format that this version reads.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"not a foveate report of format {FORMAT} (found {found!r})")
        images = tuple(ImageReport.from_dict(image) for image in data["images"])
        columns = tuple(tuple(row) for row in data["columns"])
        return cls(images, data["cache_bytes_before"], data["cache_bytes_after"], data["method_seconds"], columns)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The inverse of `to_json`."""
        return cls.from_dict(json.loads(text))

    @classmethod
    def load(cls, path: str | Path) -> Report:
        """Read what `save` wrote."""
        return cls.from_json(Path(path).read_text(encoding="utf-8"))
