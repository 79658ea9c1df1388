"""The second phase: adapters and projector learn to answer, with the decoder in the loop, from windows up to whole scenes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from foveate.demo.scenes.labels import IGNORED
from foveate.demo.scenes.questions import FAMILIES
from foveate.recipe.smollm2.drawers import Order
from foveate.recipe.smollm2.language import AFTER, BEFORE, END, Words
from foveate.recipe.smollm2.lessons import LAYOUTS, PackedLesson, draw_lesson
from foveate.recipe.smollm2.model import Projector, Seer

LAST_RATE = 0.01  # as a share of every rate
TEXT_EVERY = 4  # one step in so many is about texts without a picture
TEXT_LENGTH, TEXT_SHARE = 96, 0.29  # the second of a step's tokens
LARGEST = 1.0  # norm of the gradient
JUMP, CALMER = 1.5, 0.4  # a loss that is so much higher than before restores the weights and lowers the rates by this factor


@dataclass(frozen=True)
class Syllabus:
    """What is learned when, and how fast.

    Attributes:
        sizes: from a share of the time on, the shares of lessons with windows of 8 by 8 patches, small pictures of 12 by 12, and whole
            scenes.
        frame: patches per side of the pictures that windows are taken from.
        adapter_rate: the highest learning rate of the adapters.
        projector_rate: that of the projector's last weight; the rest of the projector stays as it was aligned.
        warm_up: steps until rates are at their highest.
        rests: share of the time for which the projector rests.
        notes: share of the time in which some questions are in note form; see `in_note_form`.
    """

    sizes: tuple[tuple[float, tuple[float, float, float]], ...]
    frame: int
    adapter_rate: float
    projector_rate: float
    warm_up: int
    rests: float
    notes: float


WHOLE_SCENES = Syllabus(
    sizes=((0.0, (0.9, 0.1, 0.0)), (0.2, (0.5, 0.35, 0.15)), (0.4, (0.15, 0.25, 0.6)), (0.6, (0.0, 0.12, 0.88))),
    frame=24,
    adapter_rate=1e-3,
    projector_rate=2e-4,
    warm_up=100,
    rests=0.0,
    notes=0.6,
)
"""For a GPU."""
SMALL_PICTURES = Syllabus(
    sizes=((0.0, (1.0, 0.0, 0.0)), (0.12, (0.6, 0.4, 0.0)), (0.4, (0.3, 0.7, 0.0)), (0.8, (0.15, 0.85, 0.0))),
    frame=12,
    adapter_rate=1.2e-3,
    projector_rate=2e-4,
    warm_up=25,
    rests=0.0,
    notes=0.75,
)
"""For a CPU, on which whole scenes are out of reach."""


@dataclass
class Clock:
    """How far the phase is: by the time spent in it, including earlier runs of it."""

    seconds: float
    before: float = 0.0
    begun: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        """Seconds spent."""
        return self.before + time.monotonic() - self.begun

    @property
    def progress(self) -> float:
        """Share of the time that is over."""
        return self.elapsed / self.seconds if self.seconds > 0 else 1.0


def rate(step: int, progress: float, warm_up: int) -> float:
    """Factor on the learning rates: a short rise by steps, then a cosine by time."""
    return min(1.0, (step + 1) / warm_up) * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def orders(clock: Clock, syllabus: Syllabus, seed: int, start: int, tokens: int, prompt: int) -> Iterator[Order]:
    """Lessons of about as many tokens as wanted, of sizes that depend on the time, without end."""
    step = start
    while True:
        shares = next(shares for begins, shares in reversed(syllabus.sizes) if clock.progress >= begins)
        side = int(np.random.default_rng((seed, 1, step)).choice(list(LAYOUTS), p=shares))
        batch = max(1, round(tokens / (prompt + side * side + LAYOUTS[side].strip)))
        yield draw_lesson, ((seed, 2, step), "train", batch, side, syllabus.frame, clock.progress < syllabus.notes)
        step += 1


def row_weights(lesson: PackedLesson) -> Tensor:
    """What the rows (b, r) of a lesson count in its loss: the inverse root of how many their answer has, and 0 for padding.

    With equal weights the characters of signs, six or so in an answer, outweigh every other answer.
    """
    valid = lesson.wanted != IGNORED
    rows = torch.zeros_like(lesson.families).scatter_add_(1, lesson.asked, valid.long())
    return valid * rows.clamp(min=1).float().rsqrt().gather(1, lesson.asked)


class Texts:
    """Answers of the untouched decoder, (n, `TEXT_LENGTH`) tokens and the next tokens wanted.

    Args:
        pairs: questions with those answers.
        words: the decoder's tokenizer.
        device: where to keep them.
        length: tokens of a step about pictures, of which a step about texts has `TEXT_SHARE` as many.
    """

    def __init__(self, pairs: Sequence[Sequence[str]], words: Words, device: torch.device, length: int) -> None:
        tokens = np.zeros((len(pairs), TEXT_LENGTH), dtype=np.int64)
        wanted = np.full((len(pairs), TEXT_LENGTH), IGNORED, dtype=np.int64)
        for row, (question, answer) in enumerate(pairs):
            before, after = words.ids(BEFORE + question + AFTER), words.ids(answer + END)
            ids = (*before, *after)[: TEXT_LENGTH + 1]
            tokens[row, : len(ids) - 1] = ids[:-1]
            wanted[row, len(before) - 1 : len(ids) - 1] = ids[len(before) :]
        self.tokens, self.wanted = torch.from_numpy(tokens).to(device), torch.from_numpy(wanted).to(device)
        self.batch = min(max(1, round(TEXT_SHARE * length / TEXT_LENGTH)), len(pairs))

    def loss(self, seer: Seer, step: int) -> Tensor:
        """The loss of some of them."""
        start = step * self.batch % (len(self.tokens) - self.batch + 1)
        part = slice(start, start + self.batch)
        logits = seer.logits(seer.read(self.tokens[part]))
        return functional.cross_entropy(logits.flatten(0, 1).float(), self.wanted[part].flatten(), ignore_index=IGNORED)


class Ledger:
    """Losses and right tokens by family, summed on the device and fetched when they are logged."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(3, len(FAMILIES) + 1, device=device)

    def add(self, losses: Tensor, right: Tensor, families: Tensor) -> None:
        """Add rows' losses, whether their token is right, and their family; that of padding is -1."""
        index = torch.where(families < 0, len(FAMILIES), families).flatten()
        counted = torch.stack([losses.flatten(), right.flatten().float(), torch.ones_like(losses).flatten()])
        self._sums.index_add_(1, index, counted)

    def figures(self) -> dict[str, Any]:
        """The loss and the share of right tokens, in all and by family, since the last call."""
        sums = self._sums.tolist()
        self._sums.zero_()
        rows = [(name, *(line[index] for line in sums)) for index, name in enumerate(FAMILIES) if sums[2][index]]
        total = sum(count for *_, count in rows) or 1.0
        return {
            "loss": round(sum(loss for _, loss, _, _ in rows) / total, 4),
            "right": round(sum(right for _, _, right, _ in rows) / total, 4),
            "losses": {name: round(loss / count, 4) for name, loss, _, count in rows},
            "tokens": int(total),
        }


class Anchor:
    """Keeps the mean of the visual tokens where the alignment put it, while the projector's last weight is learned.

    At first the gradients of all visual tokens agree, and would move them towards one vector: without this, at a rate of 3e-4, the mean
    cosine of two tokens rose to .79 within 24 steps.

    Args:
        projector: aligned, and unchanged since except by this.
        seen: (..., seen) the tower's states of some patches.
    """

    def __init__(self, projector: Projector, seen: Tensor) -> None:
        self._layer = projector.linear_2
        with torch.no_grad():
            self._hidden = projector.hidden(seen).float().flatten(0, -2).mean(0)
            self._token = self._layer(self._hidden)

    def hold(self) -> None:
        """Take what all tokens have in common out of the weight's gradient."""
        gradient = self._layer.weight.grad
        if gradient is not None:
            gradient.addr_(gradient @ self._hidden, self._hidden, alpha=-1 / self._hidden.square().sum().item())

    @torch.no_grad()
    def settle(self) -> None:
        """Move the bias so that the mean token is where it was."""
        self._layer.bias.copy_(self._token - self._layer.weight @ self._hidden)


class Learner:
    """Steps of the phase, in as many pieces as the memory needs.

    Args:
        seer: trained in place.
        texts: see `Texts`, or `None` to train on pictures alone.
        syllabus: its rates.

    Attributes:
        anchor: see `Anchor`; `None` if the projector may move its tokens in any way.
    """

    def __init__(self, seer: Seer, texts: Texts | None, syllabus: Syllabus) -> None:
        self.seer, self.texts, self.syllabus = seer, texts, syllabus
        self.anchor: Anchor | None = None
        self.device = seer.device
        adapters = [weight for name, weight in seer.trained().items() if not name.startswith("projector")]
        groups = [
            {"params": [seer.projector.linear_2.weight], "base": syllabus.projector_rate, "rests": syllabus.rests},
            {"params": adapters, "base": syllabus.adapter_rate, "rests": 0.0},
        ]
        fused = self.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(groups, lr=syllabus.adapter_rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=0, fused=fused)
        self.step, self.questions, self.pieces = 0, 0, 1
        self.ledger = Ledger(self.device)
        self._pending: deque[torch.cuda.Event] = deque()

    def learn(self, lesson: PackedLesson, progress: float) -> None:
        """One step; a lesson that does not fit in memory is learned in pieces, and so are all after it."""
        self.questions += int((lesson.families >= 0).sum())
        resting = progress < self.syllabus.rests
        while True:
            try:
                self._gradients(lesson, resting=resting)
                break
            except torch.cuda.OutOfMemoryError:
                if self.pieces >= len(lesson.pixels):
                    raise
                self.pieces *= 2
                self.optimiser.zero_grad(set_to_none=True)
                torch.cuda.empty_cache()
        weights = [weight for group in self.optimiser.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for gradient in gradients:
            torch.nan_to_num_(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        if self.anchor is not None:
            self.anchor.hold()
        torch.nn.utils.clip_grad_norm_(weights, LARGEST)
        for group in self.optimiser.param_groups:
            group["lr"] = 0.0 if progress < group["rests"] else group["base"] * rate(self.step, progress, self.syllabus.warm_up)
        self.optimiser.step()
        if self.anchor is not None:
            self.anchor.settle()
        self.seer.zero_grad(set_to_none=True)
        self.step += 1
        self._pace()

    def _gradients(self, lesson: PackedLesson, *, resting: bool = False) -> None:
        total = float(row_weights(lesson).sum())
        for piece in lesson.pieces(self.pieces):
            (self._loss(piece.to(self.device), resting=resting) / max(1.0, total)).backward()
        if self.texts is not None and self.step % TEXT_EVERY == TEXT_EVERY - 1:
            self.texts.loss(self.seer, self.step // TEXT_EVERY).backward()

    def _loss(self, lesson: PackedLesson, *, resting: bool) -> Tensor:
        """The weighed sum of the loss of a lesson's rows; a projector that rests gets no gradient."""
        with torch.set_grad_enabled(not resting):
            visual = self.seer.projector(self.seer.seen(lesson.pixels, lesson.positions))
        logits = self.seer(lesson, visual).float()
        losses = functional.cross_entropy(logits.flatten(0, 1), lesson.wanted.flatten(), ignore_index=IGNORED, reduction="none")
        valid = lesson.wanted != IGNORED
        families = torch.where(valid, lesson.families.gather(1, lesson.asked), -1)
        self.ledger.add(losses.detach(), logits.detach().argmax(-1) == lesson.wanted, families)
        return (losses.unflatten(0, lesson.wanted.shape) * row_weights(lesson)).sum()

    def _pace(self) -> None:
        """Do not run more than two steps ahead of the GPU, so that the clock tells what was done."""
        if self.device.type != "cuda":
            return
        event = torch.cuda.Event()
        event.record()
        self._pending.append(event)
        if len(self._pending) > 2:
            self._pending.popleft().synchronize()

    def calm(self, weights: dict[str, Tensor], factor: float) -> None:
        """Go back to earlier weights, and on with lower rates."""
        for name, weight in self.seer.trained().items():
            weight.data.copy_(weights[name])
        self.optimiser.state.clear()
        for group in self.optimiser.param_groups:
            group["base"] *= factor

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs."""
        masters = {name: weight.detach().cpu() for name, weight in self.seer.trained().items()}
        return {"masters": masters, "optimiser": self.optimiser.state_dict(), "step": self.step, "questions": self.questions}

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint, which may come from another device."""
        for name, weight in self.seer.trained().items():
            weight.data.copy_(state["masters"][name])
        optimiser = state["optimiser"]
        groups = [{**group, "fused": self.device.type == "cuda"} for group in optimiser["param_groups"]]
        self.optimiser.load_state_dict({**optimiser, "param_groups": groups})
        self.step, self.questions = int(state["step"]), int(state["questions"])


class Guard:
    """Keeps the weights of the last good loss, because a run on borrowed time cannot be repeated."""

    def __init__(self, learner: Learner) -> None:
        self._learner, self._best = learner, math.inf
        self._weights = self._copied()
        self.factor = 1.0

    def _copied(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self._learner.seer.trained().items()}

    def restored(self, loss: float) -> bool:
        """Judge the mean loss of the last steps; whether it made the learner go back."""
        if math.isfinite(loss) and loss <= self._best + JUMP:
            self._best = min(self._best, loss)
            self._weights = self._copied()
            return False
        self._learner.calm(self._weights, CALMER)
        self.factor *= CALMER
        return True
