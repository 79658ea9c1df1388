"""Where images lie in a prompt: what a family receives (`Encoding`), and what it returns (`ImageTokens`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.view import Grid

__all__ = ["Encoding", "ImageTokens", "MediaKind", "Layout", "place"]

MediaKind = Literal["image", "video"]
"""What a sequence of visual tokens shows."""


@dataclass(frozen=True)
class Encoding:
    """One call of the model's vision encoder (`get_image_features`, `get_video_features`), made for this forward pass.

    It is the same whether the call was made inside a plain forward or, before it, by `generate`.

    Attributes:
        kind: what was encoded.
        arguments: the call's arguments by name. Floating-point tensors (the pixels) are on the `meta` device, so only their shape is
            known. Empty if the features were made before there was a handle.
        lengths: features per image, one entry per image (for a tensor (images, n, d): n each). Newlines that the model adds are
            included; a model that flattens all images into one tensor (n, d) gives one entry.
        signals: what vision-tower probes read in this call, by name; see `Family.fold`.
        spent: the clock's record of the time that those probes took; `None` where there were none.
    """

    kind: MediaKind
    arguments: Mapping[str, Any]
    lengths: tuple[int, ...]
    signals: Mapping[str, Tensor] = field(default_factory=dict)
    spent: Any = None


@dataclass(frozen=True)
class Layout:
    """How the placeholders of one image (or video) are used.

    Args:
        parts: (t, h, w) of each part, in the order of the prompt. An image that is shown as several crops has one part per crop, or
            per rectangle that crops were joined to; anything else has exactly one part.
        content: (n,) long: which placeholders are visual content, with n = sum of t * h * w over the parts, in row-major order of the
            parts (ascending, except for a model that goes down the columns of its grid). The others (newlines, separators) always
            stay. `None`: all placeholders are content.
        placeholders: how many placeholders the image has in the prompt; by default as many as there is content.

    Raises:
        ValueError: `content` does not fit the parts.
    """

    parts: tuple[Grid, ...]
    content: Tensor | None = None
    placeholders: int = 0

    def __post_init__(self) -> None:
        tokens = sum(math.prod(part) for part in self.parts)
        if self.content is None:
            object.__setattr__(self, "placeholders", self.placeholders or tokens)
        found = self.placeholders if self.content is None else self.content.numel()
        if found != tokens or self.placeholders < tokens:
            raise ValueError(f"parts {self.parts} have {tokens} tokens, but {found} of {self.placeholders} placeholders are content")

    @property
    def grid(self) -> Grid:
        """(t, h, w) of a single part; (1, 1, n) over all tokens of several."""
        return self.parts[0] if len(self.parts) == 1 else (1, 1, sum(math.prod(part) for part in self.parts))


@dataclass(frozen=True)
class ImageTokens:
    """Where one image (or video) lies in a prompt.

    Args:
        columns: (n,) long on the CPU: the columns of `input_ids` that hold visual content, ascending, except for a model that goes
            down the columns of its grid. They need not be adjacent: newlines, time stamps and frame separators in between are not
            content, and they always stay.
        grid: (t, h, w) of its tokens, which `columns` follow in row-major order; (1, 1, n) if there are several parts.
        kind: image or video. An int `keep` counts per image, and for a video per frame (there are t).
        parts: (t, h, w) of each part in order; `(grid,)` unless given. Parts share one budget.

    Raises:
        ValueError: if grid or parts do not multiply to n.
    """

    columns: Tensor
    grid: Grid
    kind: MediaKind = "image"
    parts: tuple[Grid, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", self.parts or (self.grid,))
        cells, tokens = math.prod(self.grid), self.columns.numel()
        if tokens != cells or tokens != sum(math.prod(part) for part in self.parts):
            raise ValueError(f"{tokens} columns do not fill grid {self.grid} with parts {self.parts}")


def place(
    input_ids: Tensor, placeholders: Mapping[MediaKind, int], layouts: Mapping[MediaKind, Sequence[Layout] | Iterator[Layout]]
) -> list[list[ImageTokens]]:
    """Assign layouts to the placeholders of a batch: images in the order of rows and prompts, and videos likewise.

    Args:
        input_ids: (b, s) on the CPU.
        placeholders: the token id of each kind's placeholders.
        layouts: those of all images, and of all videos, of the batch; an endless iterator if all are alike.

    Raises:
        InputError: placeholders and layouts do not match.
    """
    rows: list[list[ImageTokens]] = [[] for _ in range(len(input_ids))]
    for kind, token in placeholders.items():
        given = layouts.get(kind, ())
        queue = iter(given)
        for row, ids in enumerate(input_ids):
            columns = (ids == token).nonzero().squeeze(1)
            total = columns.numel()
            while columns.numel():
                layout = next(queue, None)
                if layout is None or layout.placeholders > columns.numel():
                    raise _misfit(kind, row, total, columns.numel(), layout)
                own, columns = columns[: layout.placeholders], columns[layout.placeholders :]
                content = own if layout.content is None else own[layout.content]
                rows[row].append(ImageTokens(content, layout.grid, kind, layout.parts))
        if isinstance(given, Sequence) and next(queue, None) is not None:
            wanted = sum(layout.placeholders for layout in given)
            found = int(torch.isin(input_ids, torch.tensor(token)).sum())
            raise InputError(
                f"{len(given)} {kind}s were encoded, for {wanted} placeholders, but the prompt has only {found}; "
                f"pass the prompt in one piece, with each {kind}'s placeholders complete"
            )
    return [sorted(row, key=lambda image: int(image.columns[0])) for row in rows]


def _misfit(kind: MediaKind, row: int, total: int, left: int, layout: Layout | None) -> InputError:
    if layout is None:
        return InputError(
            f"{left} of {total} {kind} placeholders in row {row} have no encoded {kind}; pass the {kind} with the prompt, "
            f"or remove its placeholders"
        )
    return InputError(
        f"{total} {kind} placeholders in row {row} do not add up to whole {kind}s: {left} are left for one of {layout.placeholders}; "
        f"pass the prompt in one piece, with each {kind}'s placeholders complete"
    )
