"""Pictures that the prompt itself marks: unbroken runs of placeholders."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.families.layout import Grid, Layout

__all__ = ["crops_per_run", "runs"]


def runs(ids: Tensor, token: int) -> list[tuple[int, int]]:
    """The unbroken runs of `token` in ids (s,), as (first column, length)."""
    visual = torch.cat([torch.zeros(1, dtype=torch.long), (ids == token).long(), torch.zeros(1, dtype=torch.long)])
    steps = visual.diff()
    starts, ends = (steps == 1).nonzero().flatten().tolist(), (steps == -1).nonzero().flatten().tolist()
    return [(start, end - start) for start, end in zip(starts, ends, strict=True)]


def crops_per_run(input_ids: Tensor, token: int, crop: Grid) -> list[Layout]:
    """One layout per run, of as many crops as fit it: crops of one image stand directly behind each other.

    Raises:
        InputError: a run is not a whole number of crops.
    """
    size = crop[0] * crop[1] * crop[2]
    found = []
    for row, ids in enumerate(input_ids):
        for start, length in runs(ids, token):
            if length % size:
                raise InputError(
                    f"the {length} image placeholders from column {start} of row {row} on do not make whole crops of {size} tokens; "
                    f"pass the prompt in one piece, as the model's processor makes it"
                )
            found.append(Layout((crop,) * (length // size)))
    return found
