"""Questions about held-out scenes, by kind: with all visual tokens, with another picture's, and with a random part of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.demo.scenes.labels import GRID, IGNORED
from foveate.demo.scenes.questions import FAMILIES
from foveate.recipe.smollm2.align import variety
from foveate.recipe.smollm2.lessons import PackedLesson
from foveate.recipe.smollm2.model import Kept, Seer

RANDOM = {8: 32, 12: 72, 24: 128}  # visual tokens that remain of a picture's, by its patches per side
CUT = 2  # the layer before which the others are dropped


@dataclass
class AnswerTally:
    """Right answers and questions by family; `character` counts the letters and digits of signs."""

    right: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    asked: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, given: Tensor, lesson: PackedLesson) -> None:
        """Count a lesson whose rows' most likely tokens (b, r) are given.

        An answer is right if every token is the most likely one after the right tokens before it, and that is so exactly if the model
        generates that answer and ends it, when it takes the most likely token each time.
        """
        good, wanted, asked = (tensor.cpu().numpy() for tensor in (given == lesson.wanted, lesson.wanted, lesson.asked))
        families = lesson.families.cpu().numpy()
        for image, row in enumerate(families):
            valid = wanted[image] != IGNORED
            for question, family in enumerate(row[row >= 0]):
                mine = good[image][valid & (asked[image] == question)]
                name = FAMILIES[family]
                self._count(name, int(mine.all()), 1)
                if name in ("word", "number"):
                    self._count("reading", int(mine.all()), 1)
                    self._count("character", int(mine[:-1].sum()), len(mine) - 1)
                if name != "description":
                    self._count("all", int(mine.all()), 1)

    def _count(self, name: str, right: int, asked: int) -> None:
        self.right[name] += right
        self.asked[name] += asked

    def shares(self) -> dict[str, float]:
        """The share of right answers by family."""
        return {name: round(self.right[name] / self.asked[name], 4) for name in self.asked}


def kept_at_random(batch: int, tokens: int, count: int, seed: int) -> Tensor:
    """Indices (b, count) of visual tokens, chosen at random, in order."""
    rng = np.random.default_rng(seed)
    chosen = [np.sort(rng.choice(tokens, count, replace=False)) for _ in range(batch)]
    return torch.from_numpy(np.stack(chosen))


@torch.no_grad()
def judge(seer: Seer, lessons: Iterable[PackedLesson], side: int = GRID, *, varied: bool = True) -> dict[str, Any]:
    """Ask held-out lessons with pictures of one size, with what the decoder sees varied unless `varied` is false.

    Returns:
        `questions` by family, the shares of right answers under `all_tokens`, `other_picture`, `no_picture`, `random_before_layer_0` and
        `random_before_layer_2`, and under `visual_tokens` how varied those are.
    """
    device = seer.device
    varieties = ("other_picture", "no_picture", "random_before_layer_0", f"random_before_layer_{CUT}") if varied else ()
    names = ("all_tokens", *varieties)
    tallies = {name: AnswerTally() for name in names}
    sample = []
    for number, drawn in enumerate(lessons):
        lesson = drawn.to(device)
        visual = seer.projector(seer.seen(lesson.pixels, lesson.positions))
        sample.append(visual[:, ::37].flatten(0, 1))
        for name in names:
            seen = visual.roll(1, 0) if name == "other_picture" else visual
            kept = None
            if name.startswith("random"):
                index = kept_at_random(len(visual), visual.shape[1], RANDOM[side], number).to(device)
                kept = Kept(0 if name.endswith("0") else CUT, index)
            elif name == "no_picture":
                kept = Kept(0, torch.zeros(len(visual), 0, dtype=torch.long, device=device))
            tallies[name].add(seer(lesson, seen, kept).argmax(-1), lesson)
    shares = {name: tally.shares() for name, tally in tallies.items()}
    return {"questions": dict(tallies["all_tokens"].asked), **shares, "visual_tokens": variety(torch.cat(sample))}


def table(found: Mapping[str, Any]) -> str:
    """The shares as a table for people, in per cent."""
    columns = [name for name in found if name not in ("questions", "visual_tokens")]
    lines = [f"{'':12}{'asked':>7}" + "".join(f"{name:>24}" for name in columns)]
    for family in sorted(found["questions"]):
        shares = "".join(f"{100 * found[name][family]:24.1f}" for name in columns)
        lines.append(f"{family:12}{found['questions'][family]:7d}{shares}")
    return "\n".join(lines)
