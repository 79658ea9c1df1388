"""Methods that take tokens out in several stages: where the stages are, and how many tokens each leaves."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

from foveate.errors import LayerError, OptionError
from foveate.method import Method

__all__ = ["StagedMethod"]


@dataclass(frozen=True)
class StagedMethod(Method):
    """Takes tokens out in several stages, by one ranking; a method says how in `score` or `plan`.

    `keep` is met exactly after the last stage. In between the number of tokens falls by the same factor at each stage, as far as whole
    numbers allow. On a view that you build by hand, the method acts once. A share is one of the tokens that the image had before
    any method.
    """

    at: tuple[int | float, ...] = ()
    """Layers of the stages: an int is a decoder layer, a float in (0, 1) a share of the model's layers."""

    left: ClassVar[int] = 1
    """Stages from this one on. Set for the stages alone, which `stages` makes."""
    number: ClassVar[int] = 1
    """Stages in all. Likewise."""
    place: ClassVar[str] = ""
    """Which stage it is, in words."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at) if isinstance(self.at, tuple | list) else self.at)
        super().__post_init__()
        if not isinstance(self.at, tuple) or not self.at:
            raise OptionError(f"at={self.at!r} must name at least one stage, such as at=(8, 16, 24) or at=(0.25, 0.5, 0.75)")
        for stage in self.at:
            share = isinstance(stage, float) and 0 < stage < 1
            if not share and (isinstance(stage, bool) or not isinstance(stage, int) or stage < 0):
                raise OptionError(
                    f"at={self.at!r}: {stage!r} must be a decoder layer, an int from 0 upwards, or a share of the layers between 0 and 1"
                )

    def __str__(self) -> str:
        """As of any method; of a stage with its place."""
        return f"{super().__str__()}{self.place}"

    def stages(self, layers: int) -> tuple[Method, ...]:
        """The stages, each before its own layer; those that would share a layer are one.

        Raises:
            LayerError: the model has no such layer.
        """
        if self.layer >= layers:
            raise LayerError(f"layer={self.layer} of {self}: this model has decoder layers 0..{layers - 1}")
        wanted = [
            max(self.layer, stage if isinstance(stage, int) else min(math.floor(stage * layers + 0.5), layers - 1)) for stage in self.at
        ]
        chosen = sorted(set(wanted))
        if chosen[-1] >= layers:
            raise LayerError(f"at={self.at!r} of {self} names layer {chosen[-1]}; this model has decoder layers 0..{layers - 1}")
        made: list[Method] = []
        for number, layer in enumerate(chosen):
            stage = copy.copy(self)
            object.__setattr__(stage, "layer", layer)
            object.__setattr__(stage, "left", len(chosen) - number)
            object.__setattr__(stage, "number", len(chosen))
            object.__setattr__(stage, "place", f", stage {number + 1} of {len(chosen)}")
            made.append(stage)
        return tuple(made)

    def remaining(self, tokens: int, frames: int, whole: int) -> int:
        """How many of `tokens` this stage leaves of an image that had `whole` at first: `keep` after the last stage.

        Raises:
            BudgetError: an int `keep` asks for more tokens than there are and `clamp` is false.
        """
        last = self.budget(tokens, frames) if isinstance(self.keep, int) else min(self.budget(whole), tokens)
        # No power of whole numbers lies halfway between two of them, so rounding depends on no last bit.
        return max(last, math.floor(tokens * (last / tokens) ** (1 / self.left) + 0.5))
