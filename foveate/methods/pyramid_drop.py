"""PyramidDrop: take tokens out in stages, by the last prompt token's attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from foveate.methods._attention import check_attention
from foveate.methods._staged import StagedMethod
from foveate.methods.mass import MassMethod
from foveate.methods.registry import register
from foveate.view import View

__all__ = ["PyramidDrop"]


@register
@dataclass(frozen=True)
class PyramidDrop(StagedMethod, MassMethod):
    """Takes tokens out in several stages, each time those that the last prompt token attends to least; early layers see them all.

    Paper: "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
    https://arxiv.org/abs/2410.17247. Each stage ends before a layer, and keeps the share lambda of its tokens: those with the most
    attention, mean over heads, that the layer is about to compute for the last prompt token. The paper's stages are a quarter of the
    layers each, and its lambda is 0.5, here `keep=0.125`: with c cuts lambda is the c-th root of the share that remains at the end.

    `keep` is what remains after the last stage, so at equal `keep` PyramidDrop computes more than a method that acts once. Numbers of
    tokens are rounded to the nearest, where the authors' code rounds down. Among equal attention the lower index stays.

    Args:
        keep: visual tokens that remain per image after the last stage (int), or the share of the image's tokens (float).
        layer: no stage acts before an earlier layer than this one.
        clamp: as in `Method`.
        at: layers of the stages: ints are decoder layers, floats in (0, 1) shares of the model's layers.
        mass: as in `MassMethod`: share of the attention; each of c stages leaves the tokens that hold its c-th root, and at most as many
            as without `mass`. Every stage waits for the device once. `None` keeps exactly `keep`.
        at_least: as in `MassMethod`: the fewest tokens that `mass` keeps; a share is one of the image's tokens.

    Raises:
        OptionError: `at` names no stage, or something else than layers and shares.
    """

    at: tuple[int | float, ...] = (0.25, 0.5, 0.75)

    @property
    def needs(self) -> frozenset[str]:
        """The last prompt token's attention in the layer that follows."""
        return frozenset({"next_attention"})

    def score(self, view: View) -> Tensor:
        """The last prompt token's attention to each token, shape (n,)."""
        return check_attention(view.signal("next_attention"), [view], "next_attention")

    def remaining(self, tokens: int, frames: int, whole: int) -> int:
        """As of any method with stages; with `mass` the most, which is all tokens where earlier stages left no more than `keep`."""
        fewer = self.mass is not None and self.left < self.number and isinstance(self.keep, int) and tokens < self.keep * frames
        return tokens if fewer else super().remaining(tokens, frames, whole)

    def _share(self) -> float | None:
        return None if self.mass is None else self.mass ** (1 / self.number)

    def _counted(self, view: View) -> int:
        return view.whole
