"""How many visual tokens remain, computed from shapes alone, as a serving engine needs before anything runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from numbers import Integral
from typing import cast

from foveate.errors import BudgetError, LayerError
from foveate.method import Method, schedule_of
from foveate.view import Grid

__all__ = ["tokens_after"]


def tokens_after(method: Method | Sequence[Method], grids: Sequence[Grid | Sequence[Grid]]) -> list[int]:
    """How many visual tokens of each image remain after the last method of a schedule, exactly, without a model or a picture.

    Args:
        method: a method, or several as a schedule, as passed to `compress`.
        grids: per image (1, h, w) and per video (t, h, w), in tokens; for an image that is shown as several crops, which
            share one budget, the sequence of its parts.

    Returns:
        one number per entry of `grids`; for a video, the total over all frames.

    Raises:
        BudgetError: a method asks for more tokens than there are and its `clamp` is false, or the number it keeps depends on the image.
        LayerError: the layers of a schedule do not increase.
        UsageError: no method was passed.
        ValueError: a grid is not three positive integers.
    """
    schedule = schedule_of(method, "tokens_after()")
    for earlier, later in itertools.pairwise(schedule):
        if later.layer <= earlier.layer:
            raise LayerError(f"the layers of a schedule must increase; {later} follows {earlier}")
    most = [_remaining(schedule, _parts(grid)) for grid in grids]
    for each in schedule:
        if not each.exact:
            shown = f": at most {', '.join(map(str, most[:8]))}{', ...' if len(most) > 8 else ''} of these images" if most else ""
            raise BudgetError(
                f"how many tokens {each} keeps depends on the image, not on shapes alone; its budget() is the most it keeps{shown}"
            )
    return most


def _remaining(schedule: Sequence[Method], parts: Sequence[Grid]) -> int:
    count = whole = sum(math.prod(part) for part in parts)
    frames = parts[0][0] if len(parts) == 1 else 1
    for method in schedule:
        count = method.remaining(count, frames, whole)
    return count


def _parts(grid: Grid | Sequence[Grid]) -> Sequence[Grid]:
    whole = isinstance(grid, Sequence) and len(grid) > 0 and isinstance(grid[0], Integral)
    parts = [grid] if whole or not isinstance(grid, Sequence) else grid
    for part in parts:
        sizes = tuple(part) if isinstance(part, Sequence) else ()
        if len(sizes) != 3 or not all(isinstance(size, Integral) and int(size) > 0 for size in sizes):
            raise ValueError(
                f"{part!r} is not a grid of (frames, rows, columns), each a positive integer; "
                f"pass one per image, such as [(1, 24, 24)] for a single image"
            )
    if not parts:
        raise ValueError("an image needs at least one grid of (frames, rows, columns); found none")
    return [cast(Grid, tuple(map(int, part))) for part in cast(Sequence[Grid], parts)]
