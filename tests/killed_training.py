"""A run of the embedded model's recipe that is interrupted at a step, and one that is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.recipe.optimise import Optimiser
from foveate.recipe.train import Recipe, train


def killed_and_resumed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe, killed_at: int
) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The last checkpoints of an uninterrupted run and of one interrupted at an optimiser step and resumed, and the latter's weights."""
    whole = torch.load(train(folder / "whole", recipe).parent / "decoder.pt", weights_only=True)
    step, calls = Optimiser.step, []

    def dying(self: Optimiser, loss: Tensor, rate: float) -> None:
        calls.append(rate)
        if len(calls) > killed_at:
            raise KeyboardInterrupt
        step(self, loss, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Optimiser, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train(folder / "killed", recipe)
    weights = train(folder / "killed", recipe)
    return whole, torch.load(weights.parent / "decoder.pt", weights_only=True), weights
