"""The rows of one prefill: its images on their way through the cuts, the question, and rows that are one sample."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.engine.inputs import PromptImages
from foveate.engine.readings import ATTENTION
from foveate.families import ImageTokens
from foveate.method import Method
from foveate.plan import Plan
from foveate.report import ImageReport, Stage
from foveate.view import View

__all__ = ["TrackedImage", "last_tokens", "next_positions", "question_tokens", "text_after_images", "track", "twin_rows"]


@dataclass
class TrackedImage:
    """One image on its way through the cuts.

    Attributes:
        row: of the batch.
        position: among the images of its row.
        tokens: where it lies in the prompt.
        fingerprint: the same for the same prompt, whatever batch it is in.
        text_after: tokens of text after the last image of its row.
        slots: (k,) the slots of the present sequence that its remaining tokens are in.
        plan: what became of its tokens so far; it keeps k of them.
        signals: those that no layer changes, of all tokens that the image had at first, (n, ...) each.
        stages: the cuts so far.
    """

    row: int
    position: int
    tokens: ImageTokens
    fingerprint: int
    text_after: int
    slots: Tensor
    plan: Plan
    signals: Mapping[str, Tensor]
    stages: tuple[Stage, ...] = ()

    def view(self, states: Tensor, by_slot: Mapping[str, Tensor], by_row: Mapping[str, Tensor], needs: frozenset[str]) -> View:
        """What the method sees.

        Args:
            states: (b, s, d), one entry per slot of the present sequence.
            by_slot: (b, s, ...) each, likewise.
            by_row: (q or heads, s) attention and (q, d) states, of this image's row.
            needs: names of the signals that the method reads.
        """
        slots, kept = self.slots.to(states.device), self.plan.kept.to(states.device)
        own = {name: value[self.row].index_select(0, slots) for name, value in by_slot.items()}
        own |= {name: value.to(states.device).index_select(0, kept) for name, value in self.signals.items()}
        own |= {name: value.index_select(1, slots) if name in ATTENTION else value for name, value in by_row.items()}
        return View(
            states=states[self.row].index_select(0, slots),
            grid=self.tokens.grid,
            index=None if self.plan.is_identity else kept,
            fingerprint=self.fingerprint,
            parts=self.tokens.parts,
            kind=self.tokens.kind,
            text_after=self.text_after,
            **{name: value for name, value in own.items() if name in needs},
        )

    def advance(self, plan: Plan, slots: Tensor, method: Method) -> None:
        """One cut happened; the tokens that remain are in other slots."""
        self.plan, self.slots = self.plan.then(plan), slots
        self.stages = (*self.stages, Stage(str(method), method.layer, plan))

    def report(self) -> ImageReport:
        """What became of the image."""
        return ImageReport(self.row, self.position, self.tokens.grid, self.plan, self.stages, self.tokens.parts, self.tokens.kind)


def last_tokens(real: Tensor) -> Tensor:
    """Each row's last real token (b,), of `real` (b, s)."""
    return (real * torch.arange(1, real.shape[1] + 1)).argmax(1)


def next_positions(position_ids: Tensor | None, real: Tensor, past: int) -> Tensor:
    """The position (..., b) that follows each row's last real token, from the decoder's position_ids (..., 1 or b, s)."""
    last = last_tokens(real)
    if position_ids is None:
        return last + 1 + past
    whole = position_ids.cpu().expand(*position_ids.shape[:-2], real.shape[0], -1)
    return whole[..., torch.arange(real.shape[0]), last] + 1


def track(images: PromptImages, real: Tensor, text_after: Sequence[int]) -> list[TrackedImage]:
    """All images of a batch, whole.

    Args:
        images: of the prompt.
        real: (b, s) bool, false where an input column is padding.
        text_after: for each row, tokens of text after its last image.
    """
    found = []
    for row, (tokens, signals, ids) in enumerate(zip(images.tokens, images.signals, images.input_ids, strict=True)):
        prompt = ids[real[row]].numpy().tobytes()
        for position, (image, own) in enumerate(zip(tokens, signals, strict=True)):
            fingerprint = zlib.crc32(prompt, position)
            whole = Plan.identity(image.columns.numel())
            found.append(TrackedImage(row, position, image, fingerprint, text_after[row], image.columns, whole, own))
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


def twin_rows(input_ids: Tensor, embeddings: Tensor, real: Tensor) -> list[int]:
    """For each row the first row that is the same sample: beams and returned sequences of one sample share one plan."""
    twins: list[int] = []
    for row in range(len(input_ids)):
        same = (
            other
            for other in sorted(set(twins))
            if torch.equal(real[row], real[other])
            and torch.equal(input_ids[row][real[row]], input_ids[other][real[other]])
            and torch.equal(embeddings[row], embeddings[other])
        )
        twins.append(next(same, row))
    return twins
