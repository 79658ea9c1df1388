"""Pictures that the prompt itself marks by unbroken runs of placeholders."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.errors import InputError
from foveate.families.kit.layout import Layout
from foveate.view import Grid

__all__ = ["crops_per_run", "whole_runs"]


def whole_runs(ids: Tensor, token: int, size: int, row: int) -> list[tuple[int, int]]:
    """The unbroken runs of `token` in the ids (s,) of a row, as (first column, length).

    Raises:
        InputError: a run is not a whole number of crops of `size` tokens.
    """
    visual = torch.cat([torch.zeros(1, dtype=torch.long), (ids == token).long(), torch.zeros(1, dtype=torch.long)])
    steps = visual.diff()
    starts, ends = (steps == 1).nonzero().flatten().tolist(), (steps == -1).nonzero().flatten().tolist()
    found = [(start, end - start) for start, end in zip(starts, ends, strict=True)]
    for start, length in found:
        if length % size:
            raise InputError(
                f"the {length} image placeholders from column {start} of row {row} do not add up to whole crops of {size} tokens; "
                f"pass the prompt in one piece, as the model's processor makes it"
            )
    return found


def crops_per_run(input_ids: Tensor, token: int, crop: Grid) -> list[Layout]:
    """One layout per run, with as many crops as fit: the crops of one image follow directly one after the other.

    Raises:
        InputError: a run is not a whole number of crops.
    """
    size = crop[0] * crop[1] * crop[2]
    rows = (whole_runs(ids, token, size, row) for row, ids in enumerate(input_ids))
    return [Layout((crop,) * (length // size)) for found in rows for _, length in found]
