"""The rows of one prefill: its images on their way through the cuts, the question, and rows that are one sample."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.engine.readings import ATTENTION
from foveate.families import ImageTokens
from foveate.method import Method
from foveate.plan import Plan
from foveate.report import ImageReport, Stage
from foveate.view import View

__all__ = ["TrackedImage", "last_tokens", "next_positions", "question_tokens", "text_behind", "track", "twin_rows"]


@dataclass
class TrackedImage:
    """One image on its way through the cuts. `slots` are its tokens' places in the row's present sequence."""

    row: int
    position: int
    tokens: ImageTokens
    fingerprint: int
    text_behind: int
    slots: Tensor
    plan: Plan
    fixed: Mapping[str, Tensor]
    stages: tuple[Stage, ...] = ()

    def view(self, states: Tensor, signals: Mapping[str, Tensor], question: Mapping[str, Tensor], needs: frozenset[str]) -> View:
        """What the method sees.

        Args:
            states: (b, n, d).
            signals: (b, n, ...) each, one entry per place of the present sequence.
            question: (q or heads, n) and (q, d), of this image's row.
            needs: names of the signals that the method reads.
        """
        slots, kept = self.slots.to(states.device), self.plan.kept.to(states.device)
        own = {name: value[self.row].index_select(0, slots) for name, value in signals.items()}
        own |= {name: value.to(states.device).index_select(0, kept) for name, value in self.fixed.items()}
        own |= {name: value.index_select(1, slots) if name in ATTENTION else value for name, value in question.items()}
        return View(
            states=states[self.row].index_select(0, slots),
            grid=self.tokens.grid,
            index=None if self.plan.is_identity else kept,
            fingerprint=self.fingerprint,
            parts=self.tokens.parts,
            kind=self.tokens.kind,
            text_behind=self.text_behind,
            **{name: value for name, value in own.items() if name in needs},
        )

    def advance(self, plan: Plan, slots: Tensor, method: Method) -> None:
        self.plan, self.slots = self.plan.then(plan), slots
        self.stages = (*self.stages, Stage(str(method), method.layer, plan))

    def report(self) -> ImageReport:
        return ImageReport(self.row, self.position, self.tokens.grid, self.plan, self.stages, self.tokens.parts, self.tokens.kind)


def last_tokens(valid: Tensor) -> Tensor:
    """Each row's last real token (b,), of `valid` (b, s)."""
    return (valid * torch.arange(1, valid.shape[1] + 1)).argmax(1)


def next_positions(position_ids: Tensor | None, valid: Tensor, past: int) -> Tensor:
    """The position (..., b) that follows each row's last real token, from the decoder's position_ids (..., 1 or b, s)."""
    last = last_tokens(valid)
    if position_ids is None:
        return last + 1 + past
    whole = position_ids.cpu().expand(*position_ids.shape[:-2], valid.shape[0], -1)
    return whole[..., torch.arange(valid.shape[0]), last] + 1


def track(
    images: Sequence[Sequence[ImageTokens]],
    fixed: Sequence[Sequence[Mapping[str, Tensor]]],
    input_ids: Tensor,
    valid: Tensor,
    text_behind: Sequence[int],
) -> list[TrackedImage]:
    found = []
    for row, (tokens, signals, ids) in enumerate(zip(images, fixed, input_ids, strict=True)):
        prompt = ids[valid[row]].numpy().tobytes()
        for position, (image, own) in enumerate(zip(tokens, signals, strict=True)):
            fingerprint = zlib.crc32(prompt, position)
            whole = Plan.identity(image.columns.numel())
            found.append(TrackedImage(row, position, image, fingerprint, text_behind[row], image.columns, whole, own))
    return found


def text_behind(images: Sequence[Sequence[ImageTokens]], placeholders: Tensor, valid: Tensor) -> Tensor:
    """The real text (b, s) behind the row's last visual token."""
    order = torch.arange(valid.shape[1])
    last = torch.tensor([max((int(image.columns[-1]) for image in row), default=valid.shape[1]) for row in images])
    return valid & ~placeholders & (order > last[:, None])


def question_tokens(text_behind: Tensor, valid: Tensor) -> Tensor:
    """The question tokens (b, s): the text behind the row's last visual token, and its last token in any case."""
    asked = text_behind.clone()
    asked[torch.arange(len(asked)), last_tokens(valid)] = True
    return asked


def twin_rows(input_ids: Tensor, embeddings: Tensor, valid: Tensor) -> list[int]:
    """For each row the first row that is the same sample: beams and returned sequences of one sample share one plan."""
    twins: list[int] = []
    for row in range(len(input_ids)):
        same = (
            other
            for other in sorted(set(twins))
            if torch.equal(valid[row], valid[other])
            and torch.equal(input_ids[row][valid[row]], input_ids[other][valid[other]])
            and torch.equal(embeddings[row], embeddings[other])
        )
        twins.append(next(same, row))
    return twins
