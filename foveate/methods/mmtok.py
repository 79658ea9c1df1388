"""MMTok: keep tokens that together cover the question and the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from foveate.devices import require
from foveate.errors import InputError, OptionError
from foveate.methods._features import BLOCK, ROUNDED, FeatureMethod, cosines, unit_rows
from foveate.methods._question import question_units
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["MMTok"]

MOST = 8192
"""Most tokens of an image: how each covers each takes 512 MiB, and sums of more would not be exact."""


@register
@dataclass(frozen=True)
class MMTok(FeatureMethod):
    """Keeps tokens that together cover the question's tokens and all visual tokens (maximum coverage).

    Paper: "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs", https://arxiv.org/abs/2508.18264. How well visual
    token v covers a text token, or another visual token, is the softmax over all v of their cosine divided by a temperature. A set covers a
    token as well as its best member does. Each step takes the token that raises most the mean coverage of the text tokens plus
    `visual` times that of the visual tokens.

    Text tokens are compared with projected features, at layer 0 by the question's embeddings, at a later layer by the hidden states
    that enter it. Visual tokens are compared with each other by their features before projection, as in the authors' code, or by the
    projected ones (`features="projected"`), where a model gives no others.

    The paper leaves open, and here holds: the text tokens are all of the question (the authors' code for LLaVA drops stop words);
    among equals the lower index comes first, where coverages that differ by less than 2^-40 are equal; once nothing adds coverage, the
    lowest indices fill the budget; frames of a video and crops of an image are one set of tokens. The vision-language agent that may
    rewrite the question in the paper is not part of it.

    Args:
        keep: visual tokens that remain per image (int) or the share of them (float), as in `Method`.
        layer: the decoder layer that the method acts before; the paper's is 0, the language model's input.
        clamp: as in `Method`.
        visual: weight of the coverage of visual tokens, in [0, 100]; the authors' is 0.5.
        text_temperature: of the cosines to text tokens, in [0.001, 10]; the authors' is 0.02.
        visual_temperature: of the cosines between visual tokens, in [0.001, 10]; the authors' is 0.2.
        features: by which features visual tokens are compared with each other, "tower" or "projected".

    Raises:
        OptionError: an option is outside its range.
    """

    visual: float = 0.5
    text_temperature: float = 0.02
    visual_temperature: float = 0.2
    features: Literal["tower", "projected"] = "tower"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("visual", 0, 100), ("text_temperature", 0.001, 10), ("visual_temperature", 0.001, 10)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise OptionError(f"{name}={value!r} must be a number in [{low}, {high}]; the authors' is {getattr(MMTok, name)}")
        if self.features not in ("tower", "projected"):
            raise OptionError(f"features={self.features!r} must be 'tower' (before projection) or 'projected' (after it)")

    @property
    def needs(self) -> frozenset[str]:
        """The question, and features before projection or, at a later layer, after it."""
        return frozenset({"question_states", "tower_states"}) if self.features == "tower" else super().needs | {"question_states"}

    def choose(self, features: Tensor, views: Sequence[View], keep: int) -> Tensor:
        """The tokens (b, keep) in the order in which the greedy search takes them.

        Raises:
            InputError: an image has more tokens than can be compared all with all.
        """
        if features.shape[1] > MOST:
            raise _too_many(features.shape[1])
        text = [question_units(view, type(self).__name__) for view in views]
        states = torch.stack([view.states for view in views])
        require(states.isfinite().flatten(1).all(1), self._not_finite, views)
        batch, tokens = features.shape[:2]
        # Rows of zeros, where another image has a longer question, are covered from the start.
        covers = torch.zeros(batch, max(map(len, text)) + tokens, tokens, dtype=torch.float64, device=features.device)
        for own, words, image, projected in zip(covers, text, unit_rows(features), unit_rows(states), strict=True):
            _fill(own[tokens : tokens + len(words)], words, projected, self.text_temperature, 1.0)
            _fill(own[:tokens], image, image, self.visual_temperature, self.visual)
        return _most_coverage(covers, keep)

    def _features(self, view: View) -> Tensor:
        return view.signal("tower_states") if self.features == "tower" else super()._features(view)


def _fill(covers: Tensor, rows: Tensor, tokens: Tensor, temperature: float, weight: float) -> None:
    """Writes into `covers` (r, n) how well each of tokens (n, d) covers each of rows (r, d), all of length 1.

    That is the softmax of their cosines, times weight / r, in whole numbers of 1 / ROUNDED, so that sums are exact. Block by block, so that
    no second matrix of that size is in memory.
    """
    for to, part in zip(covers.split(BLOCK), rows.split(BLOCK), strict=True):
        # Equal tokens must tie, so their cosines are made equal first.
        alike = cosines(part[None], tokens[None])[0].div_(ROUNDED * temperature)
        to.copy_(alike.softmax(-1).mul_(ROUNDED * weight / len(rows)).round_())


def _most_coverage(covers: Tensor, keep: int) -> Tensor:
    """The columns (b, keep) of `covers` (b, r, n) that a greedy search takes for the largest sum over rows of the highest of each."""
    # What each column would add. Once one is taken, each row is covered by as much more, which no other need add.
    batch, rows, tokens = covers.shape
    taken, chosen = covers.new_zeros(batch, tokens), []
    for _ in range(keep):
        pick = (covers.sum(1) + taken).argmax(1, keepdim=True)
        chosen.append(pick)
        taken.scatter_(1, pick, -torch.inf)
        covers.sub_(covers.gather(2, pick[:, None].expand(-1, rows, -1))).clamp_(min=0)
    return torch.cat(chosen, 1)


def _too_many(tokens: int) -> InputError:
    return InputError(
        f"MMTok compares all visual tokens of an image with each other, and {tokens} are too many ({8 * tokens**2 / 2**20:.0f} MiB); the "
        f"limit is {MOST}: pass smaller images or fewer frames, or use CDPruner, which needs no such matrix"
    )
