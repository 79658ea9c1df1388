"""The rows of one prefill: its images on their way through the cuts, the question, and rows that are one sample."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from foveate.devices import upload
from foveate.engine.inputs import PromptImages
from foveate.engine.slots import last_tokens
from foveate.families import ImageTokens
from foveate.plan import Plan
from foveate.report import ImageReport, Stage
from foveate.view import View

__all__ = [
    "TrackedImage",
    "next_positions",
    "question_tokens",
    "report_of",
    "row_digests",
    "text_after_images",
    "track",
    "twin_rows",
]


@dataclass
class TrackedImage:
    """One image on its way through the cuts.

    Attributes:
        row: of the batch.
        position: among the images of its row.
        tokens: where it lies in the prompt.
        fingerprint: the same for the same prompt, whatever batch it is in.
        text_after: tokens of text after the last image of its row.
        shown: whether the mask shows all of its tokens.
        signals: those that no layer changes, of all tokens that the image had at first, (n, ...) each.
        count: how many of its tokens remain.
        stages: the cuts so far.
    """

    row: int
    position: int
    tokens: ImageTokens
    fingerprint: int
    text_after: int
    shown: bool
    signals: Mapping[str, Tensor]
    count: int
    stages: tuple[Stage, ...] = ()

    @property
    def name(self) -> str:
        """Where it is, for messages."""
        return f"row {self.row}, image {self.position}"

    def view(self, own: Mapping[str, Tensor], cells: Tensor | None, needs: frozenset[str]) -> View:
        """What the method sees.

        Args:
            own: "states" and signals of the tokens that remain, (k, ...) each, and those of the row's question tokens.
            cells: (k,) which of the image's first tokens remain; `None` where all do.
            needs: names of the signals that the method reads.
        """
        given = dict(own)
        for name in needs & self.signals.keys():
            value = upload(self.signals[name], given["states"].device)
            given[name] = value.clone() if cells is None else value.index_select(0, cells)
        return View(
            grid=self.tokens.grid,
            index=cells,
            fingerprint=self.fingerprint,
            parts=self.tokens.parts,
            kind=self.tokens.kind,
            text_after=self.text_after,
            **given,  # type: ignore[arg-type]
        )


def report_of(row: int, position: int, tokens: ImageTokens, stages: Sequence[Stage]) -> ImageReport:
    """What became of an image."""
    plan = Plan.identity(tokens.columns.numel())
    known = tuple(Stage(stage.method, stage.layer, stage.plan.cpu()) for stage in stages)
    for stage in known:
        plan = plan.then(stage.plan)
    return ImageReport(row, position, tokens.grid, plan, known, tokens.parts, tokens.kind)


def next_positions(position_ids: Tensor | None, real: Tensor, past: int) -> Tensor:
    """The position (..., b) that follows each row's last real token, from the decoder's position_ids (..., 1 or b, s), on their device."""
    last = last_tokens(real)
    if position_ids is None:
        return last + 1 + past
    whole = position_ids.expand(*position_ids.shape[:-2], real.shape[0], -1)
    columns = set(last.tolist())
    if len(columns) == 1:
        return whole[..., columns.pop()] + 1
    index = upload(last, whole.device).expand(whole.shape[:-1])
    return whole.gather(-1, index[..., None]).squeeze(-1) + 1


def track(images: PromptImages, real: Tensor, text_after: Sequence[int]) -> list[TrackedImage]:
    """All images of a batch, whole.

    Args:
        images: of the prompt.
        real: (b, s) bool on the CPU, false where an input column is padding.
        text_after: for each row, tokens of text after its last image.
    """
    found = []
    for row, (tokens, signals, ids) in enumerate(zip(images.tokens, images.signals, images.input_ids, strict=True)):
        if not tokens:
            continue
        padded = not bool(real[row].all())
        prompt = (ids[real[row]] if padded else ids).numpy().tobytes()
        for position, (image, own) in enumerate(zip(tokens, signals, strict=True)):
            fingerprint = zlib.crc32(prompt, position)
            shown = not padded or bool(real[row, image.columns].all())
            found.append(TrackedImage(row, position, image, fingerprint, text_after[row], shown, own, image.columns.numel()))
    return found


def text_after_images(images: Sequence[Sequence[ImageTokens]], placeholders: Tensor, real: Tensor) -> Tensor:
    """The real text (b, s) after the row's last visual token; `placeholders` (b, s) is true at visual tokens."""
    order = torch.arange(real.shape[1])
    last = torch.tensor([max((int(image.columns[-1]) for image in row), default=real.shape[1]) for row in images])
    return real & ~placeholders & (order > last[:, None])


def question_tokens(text: Tensor, real: Tensor) -> Tensor:
    """The question tokens (b, s): the text after the row's last visual token, and its last token in any case."""
    asked = text.clone()
    asked[torch.arange(len(asked)), last_tokens(real)] = True
    return asked


def twin_rows(input_ids: Tensor, embeddings: Tensor, real: Tensor, digests: Tensor | None = None) -> list[int]:
    """For each row the first row that is the same sample: beams and returned sequences of one sample share one plan.

    Args:
        input_ids: (b, s) on the CPU.
        embeddings: (b, s, d).
        real: (b, s) bool on the CPU.
        digests: what `row_digests` gave, on the CPU; `None` where the embeddings are there too.
    """
    values = embeddings if digests is None else digests
    twins: list[int] = []
    for row in range(len(input_ids)):
        same = (
            other
            for other in sorted(set(twins))
            if torch.equal(real[row], real[other])
            and torch.equal(input_ids[row][real[row]], input_ids[other][real[other]])
            and torch.equal(values[row], values[other])
        )
        twins.append(next(same, row))
    return twins


def row_digests(embeddings: Tensor) -> Tensor:
    """Two 64-bit sums (b, 2) over the bits of each row's embeddings (b, s, d), computed on their device; equal rows have equal sums.

    The weights are random odd numbers, so rows that differ have the same sums with a probability of about 2**-64.
    """
    rows = embeddings.detach().contiguous()
    size = rows.element_size()
    words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
    aligned = rows.shape[-1] * size % 8 == 0 and rows.storage_offset() * size % 8 == 0
    bits = rows.view(torch.int64 if aligned else words).long()
    by_column = (bits * _odd_numbers(1, bits.shape[2], rows.device)).sum(-1)
    return (by_column[:, None, :] * _odd_numbers(2, bits.shape[1], rows.device)).sum(-1)


def _odd_numbers(rows: int, columns: int, device: torch.device) -> Tensor:
    """The same odd numbers (rows, columns) at every call."""
    return _drawn(rows, 1 << (columns - 1).bit_length(), device)[:, :columns]


@lru_cache(maxsize=32)
def _drawn(rows: int, columns: int, device: torch.device) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(rows * 7919 + 1)
    return upload(torch.randint(-(2**62), 2**62, (rows, columns), generator=generator) * 2 + 1, device)
