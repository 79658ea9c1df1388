"""The file of what a run trained: projector and adapters in bfloat16, with figures and facts about the run in its header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foveate.errors import RecordError
from foveate.files.checkpoints.finite import not_finite
from foveate.files.records import ANYTHING, check_regular, shown
from foveate.files.writing import write_whole
from foveate.recipe.smollm2.model import PARTS, SCALE

ADAPTERS = "adapters.safetensors"
_REMEDY = "name the adapters.safetensors of a run of this recipe"


@dataclass(frozen=True)
class TrainedAdapters:
    """What a run trained.

    Attributes:
        weights: of the projector and the adapters, by name, in float32.
        side: patches per side of the pictures that it learned at last.
        step: steps of training.
        results: what the run measured; empty while it runs.
    """

    weights: Mapping[str, Tensor]
    side: int
    step: int
    results: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file whole or not at all.

        Raises:
            WriteError: it cannot be written.
        """
        half = {name: weight.detach().to(torch.bfloat16).cpu().contiguous() for name, weight in self.weights.items()}
        rank = len(next(weight for name, weight in half.items() if name.startswith("down."))[0])
        notes = {"rank": str(rank), "scale": str(SCALE), "step": str(self.step), "side": str(self.side), "parts": ",".join(PARTS)}
        write_whole(path, save(half, {**notes, "results": ANYTHING.of(dict(self.results), "the results").text}))


def read_adapters(path: Path) -> TrainedAdapters:
    """Read the file of a run.

    Raises:
        RecordError: it is missing, damaged, or holds anything else.
    """
    check_regular(path)
    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{shown(path)} cannot be read ({str(error).partition(chr(10))[0]}); {_REMEDY}") from error
    wanted = {f"{half}.{part}" for half in ("up", "down") for part in PARTS}
    wanted |= {f"projector.linear_{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")}
    if missing := sorted(wanted - set(weights)):
        raise RecordError(f"{shown(path)} holds no {missing[0]}, so it is not what this recipe trains; {_REMEDY}")
    if spoiled := not_finite(weights):
        raise RecordError(f"{shown(path)} holds weights that are not finite ({spoiled[0]}); {_REMEDY}")
    if notes.get("scale") != str(SCALE) or notes.get("parts") != ",".join(PARTS):
        raise RecordError(f"{shown(path)} was trained with other adapters than this version of foveate merges; {_REMEDY}")
    results = ANYTHING.parse(notes.get("results", "{}"), f"the header of {shown(path)}").raw
    return TrainedAdapters(weights, int(notes.get("side", "24")), int(notes.get("step", "0")), results)
