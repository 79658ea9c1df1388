"""The first phase: fit the projector so that every patch looks like the words that say what is in it, without running the decoder."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from foveate.demo.model.architecture import calibrate
from foveate.demo.scenes.drawing import COLOURS, LONGEST, SHAPES, SIZES
from foveate.demo.scenes.glyphs import ALPHABET
from foveate.demo.scenes.labels import IGNORED
from foveate.recipe.smollm2.language import Words
from foveate.recipe.smollm2.lessons import LABELS
from foveate.recipe.smollm2.model import Projector

NAMES: dict[str, tuple[str, ...]] = {
    "kind": (*SHAPES, "sign", "digit"),
    "colour": tuple(COLOURS),
    "size": tuple(SIZES),
    "character": tuple(ALPHABET.lower()),
    "index": ("first", "second", "third", "fourth", "fifth", "sixth")[:LONGEST],
    "digit": tuple("0123456789"),
    "column": ("left", "right"),
    "row": ("top", "bottom"),
}
"""The words of each label. Background has none."""
GAINS = {"kind": 2.2, "colour": 2.2, "size": 0.8, "character": 4.2, "index": 0.8, "digit": 4.2, "column": 0.8, "row": 0.8}
"""Length of a word's own direction in a target; a colour's is long because colour words lie close together."""
COMMON = 0.4  # how much of what the words of a label have in common is part of a target
DIRECTIONS = 32  # in which the background varies that targets keep besides the words, so that it stays varied
VARIETY = 1.2  # length of that part on background
WEIGHT = 3.0  # of a patch that shows a thing; nine in ten show background
RIDGE = 1e-3


@dataclass(frozen=True)
class Seen:
    """States of patches (n, hidden) and their labels (n, len(`LABELS`))."""

    states: Tensor
    labels: Tensor


class Targets:
    """What the visual token of a patch should be.

    Args:
        embeddings: (vocabulary, width) the decoder's, in float32.
        words: the decoder's tokenizer.
        seen: patches, whose states give the directions that are kept.
    """

    def __init__(self, embeddings: Tensor, words: Words, seen: Seen) -> None:
        self.middle = embeddings.mean(0)
        self.tables = {label: self._table(embeddings, words, names) for label, names in NAMES.items()}
        states = seen.states[seen.labels[:, LABELS.index("kind")] == 0].float()
        self._mean = states.mean(0)
        values, vectors = torch.linalg.eigh((states - self._mean).T @ (states - self._mean) / len(states))
        count = min(DIRECTIONS, len(values))
        self._whiten = vectors[:, -count:] / values[-count:].clamp_min(1e-8).sqrt()
        generator = torch.Generator().manual_seed(0)
        mixed = torch.randn(embeddings.shape[1], count, generator=generator).to(embeddings.device)
        spoken = torch.linalg.qr(torch.cat([part for table in self.tables.values() for part in table]).T)[0]
        self._mixed = torch.linalg.qr(mixed - spoken @ (spoken.T @ mixed))[0].T / count**0.5

    def _table(self, embeddings: Tensor, words: Words, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """The words' own directions (classes, width), of length 1, and what they have in common, from the vocabulary's middle.

        Figures have more in common with each other than with letters.
        """
        rows = torch.stack([_embedded(embeddings, words, name) for name in names])
        figures = torch.tensor([name.isdigit() for name in names], device=rows.device)
        common = torch.where(figures[:, None], rows[figures].sum(0), rows[~figures].sum(0))
        common = common / torch.where(figures, figures.sum(), (~figures).sum())[:, None]
        return functional.normalize(rows - common, dim=-1), common - self.middle

    def of(self, seen: Seen) -> Tensor:
        """The targets (n, width)."""
        # The same linear map for all patches: two different ones would be hard to fit, and the background would lose.
        target = self.middle + VARIETY * ((seen.states.float() - self._mean) @ self._whiten @ self._mixed)
        for label, (own, common) in self.tables.items():
            classes = self.classes(seen, label)
            known = (classes >= 0)[:, None]
            target = target + known * (GAINS[label] * own[classes.clamp_min(0)] + COMMON * common[classes.clamp_min(0)])
        return target

    def classes(self, seen: Seen, label: str) -> Tensor:
        """The row of a label's table that each patch has; negative if none."""
        column = seen.labels[:, LABELS.index(label)]
        return column - 1 if label == "kind" else torch.where(column == IGNORED, -1, column)

    def read(self, tokens: Tensor, seen: Seen) -> dict[str, float]:
        """Share of patches whose label is the nearest of its words to their visual tokens."""
        found = {}
        for label, (own, _) in self.tables.items():
            classes = self.classes(seen, label)
            known = classes >= 0
            right = ((tokens[known] - tokens[known].mean(0)) @ own.T).argmax(-1) == classes[known]
            found[label] = right.float().mean().item()
        return found


def _embedded(embeddings: Tensor, words: Words, name: str) -> Tensor:
    """A word's embedding with and without a space before it, if those are single tokens, in the mean."""
    ids = [found[0] for text in (name, f" {name}") if len(found := words.ids(text)) == 1]
    return embeddings[ids or list(words.ids(f" {name}"))].mean(0)


def thinned(states: Tensor, labels: Tensor, share: float = 0.3) -> Seen:
    """All patches that show something, and a share of the others, in a new order."""
    states, labels = states.flatten(0, 1), labels.flatten(0, 1)
    keep = (labels[:, 0] > 0) | (torch.rand(len(labels), device=labels.device) < share)
    return Seen(states[keep], labels[keep])


def joined(parts: Iterable[Seen]) -> Seen:
    """Several batches of patches as one, in a random order."""
    states, labels = (torch.cat(tensors) for tensors in zip(*((part.states, part.labels) for part in parts), strict=True))
    order = torch.randperm(len(states), device=states.device)
    return Seen(states[order], labels[order])


def fit(projector: Projector, targets: Targets, seen: Seen, seconds: float, *, batch: int = 8192) -> dict[str, float]:
    """Fit the projector, in float32: its last layer by ridge regression, all of it by gradients, and its last layer again.

    Args:
        projector: changed in place.
        targets: see `Targets`.
        seen: the last twentieth tests the fit.
        seconds: for the gradients.
        batch: patches per step.

    Returns:
        The share of the targets' variance that is explained on patches that show something, and of labels that can be read.
    """
    test = len(seen.states) // 20
    train, held = Seen(seen.states[:-test], seen.labels[:-test]), Seen(seen.states[-test:], seen.labels[-test:])
    calibrate(projector, train.states[None, :20000])
    _ridge(projector, targets, train)
    first = figures(projector, targets, held)["explained"]
    optimiser = torch.optim.AdamW(projector.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0)
    begun, step = time.monotonic(), 0
    while (progress := (time.monotonic() - begun) / max(seconds, 1e-3)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 - progress)
        start = step * batch % max(1, len(train.states) - batch)
        part = Seen(train.states[start : start + batch], train.labels[start : start + batch])
        wanted = targets.of(part)
        weights = _weights(part)
        error = (projector(part.states.float()) - wanted).square().mean(-1)
        optimiser.zero_grad(set_to_none=True)
        ((error * weights).sum() / weights.sum()).backward()
        optimiser.step()
        step += 1
        if step % 20 == 0 and error.device.type == "cuda":
            torch.cuda.synchronize()  # so that the clock paces the device and not the queue
    _ridge(projector, targets, train)
    return {"ridge": first, "steps": float(step), **figures(projector, targets, held)}


def _weights(seen: Seen) -> Tensor:
    return torch.where(seen.labels[:, LABELS.index("kind")] > 0, WEIGHT, 1.0)


@torch.no_grad()
def _ridge(projector: Projector, targets: Targets, seen: Seen, chunk: int = 65536) -> None:
    """Solve for the last layer, in float64."""
    width = projector.linear_2.in_features
    device = seen.states.device
    gram = torch.zeros(width + 1, width + 1, dtype=torch.float64, device=device)
    mixed = torch.zeros(width + 1, projector.linear_2.out_features, dtype=torch.float64, device=device)
    for states, labels in zip(seen.states.split(chunk), seen.labels.split(chunk), strict=True):
        part = Seen(states, labels)
        hidden = functional.pad(projector.hidden(states.float()), (0, 1), value=1.0).double()
        weighted = hidden * _weights(part)[:, None].double()
        gram += hidden.T @ weighted
        mixed += weighted.T @ targets.of(part).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    solved = torch.linalg.solve(gram, mixed)
    projector.linear_2.weight.copy_(solved[:-1].T)
    projector.linear_2.bias.copy_(solved[-1])


@torch.no_grad()
def figures(projector: Projector, targets: Targets, seen: Seen) -> dict[str, float]:
    """How well visual tokens match their targets, by patches that show something."""
    thing = seen.labels[:, LABELS.index("kind")] > 0
    held = Seen(seen.states[thing], seen.labels[thing])
    tokens, wanted = projector(held.states.float()), targets.of(held)
    explained = 1 - (tokens - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum()
    return {"explained": explained.item(), **targets.read(tokens, held)}


@torch.no_grad()
def variety(tokens: Tensor) -> dict[str, float]:
    """How varied visual tokens (n, width) are: the mean cosine of two, and the participation ratio of their directions."""
    tokens = tokens.float()
    normed = functional.normalize(tokens, dim=-1)
    count = len(tokens)
    cosine = (normed.sum(0).square().sum() - count) / (count * (count - 1))
    values = torch.linalg.eigvalsh((tokens - tokens.mean(0)).T @ (tokens - tokens.mean(0)) / count).clamp_min(0)
    return {"cosine": cosine.item(), "directions": (values.sum().square() / values.square().sum()).item()}
