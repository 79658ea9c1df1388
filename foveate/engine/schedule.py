"""Which methods act before which layers of which model: `Schedule`, made once by `compress`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from foveate.engine.compiled import CompiledLayers
from foveate.families import Family
from foveate.method import Method

__all__ = ["Schedule"]


@dataclass(frozen=True)
class Schedule:
    """The cuts on one model. Says nothing about any forward pass.

    Args:
        model: the model that was given to `compress`.
        family: its family.
        cuts: the method at each decoder layer before which tokens leave.
        trim: take the tokens from the key/value caches of earlier layers too.
        compiled: run the layers after the last cut as compiled code.

    Attributes:
        backbone: the module that joins text and features.
        decoder: the text decoder.
        layers: its layers.
        needs: every signal that a method reads.
        placeholders: token ids that stand for visual tokens, (n,) on the CPU.
        late: runs the layers after the last cut as compiled code; `None` if they run as they are.
    """

    model: nn.Module
    family: Family
    cuts: Mapping[int, Method]
    trim: bool
    compiled: bool = False
    backbone: nn.Module = field(init=False)
    decoder: nn.Module = field(init=False)
    layers: tuple[nn.Module, ...] = field(init=False)
    needs: frozenset[str] = field(init=False)
    placeholders: Tensor = field(init=False)
    late: CompiledLayers | None = field(init=False)

    def __post_init__(self) -> None:
        family, model = self.family, self.model
        derived: dict[str, Any] = {
            "backbone": family.backbone(model),
            "decoder": family.decoder(model),
            "layers": tuple(family.layers(model)),
            "needs": frozenset[str]().union(*(method.needs for method in self.cuts.values())),
            "late": None,
            "placeholders": torch.tensor(list(family.placeholders(model).values()), device="cpu"),
        }
        if self.compiled:
            derived["late"] = CompiledLayers(derived["layers"], max(self.cuts), self.family.decoder(model).config)
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def config(self) -> Any:
        """The decoder's configuration."""
        return self.decoder.config

    def needs_at(self, index: int) -> frozenset[str]:
        """The signals that the method before decoder layer `index` reads; none where no method acts."""
        return self.cuts[index].needs if index in self.cuts else frozenset()

    def __str__(self) -> str:
        return ", ".join(str(method) for method in self.cuts.values())
