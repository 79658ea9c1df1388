"""The content of each panel: turns an `ImageReport` into titles, counts and one target per token."""

from __future__ import annotations

from dataclasses import dataclass

from foveate.errors import InputError
from foveate.plan import DROPPED, Plan
from foveate.report import ImageReport, Stage

__all__ = ["Panel", "panels_of"]


@dataclass(frozen=True)
class Panel:
    """The state of the tokens at one point of the model.

    Attributes:
        title: what happened.
        counts: how many tokens remain, in words.
        plan: where the tokens have gone so far.
    """

    title: str
    counts: str
    plan: Plan


def panels_of(image: ImageReport) -> list[Panel]:
    """The panels of one image: the original, then every step.

    A single cut that drops and merges has two steps, selection and merging. Each of several cuts is one step.

    Raises:
        InputError: if the report contradicts itself.
    """
    total = image.grid[0] * image.grid[1] * image.grid[2]
    if len(image.plan) != total:
        raise InputError(
            f"the report has {len(image.plan)} tokens but its grid {'x'.join(map(str, image.grid))} has {total} cells; "
            f"only models whose tokens fill their grid can be drawn"
        )
    panels = [Panel("Original", _grid_text(image), Plan.identity(total))]
    if len(image.stages) > 1:
        return panels + _cuts(image.stages, total)
    return panels + _steps(image)


def _steps(image: ImageReport) -> list[Panel]:
    plan, total = image.plan, len(image.plan)
    merged, dropped = plan.merged.numel(), plan.dropped.numel()
    steps = []
    if dropped or not merged:
        selected = plan.target.clone()
        selected[plan.merged] = plan.merged
        steps.append(Panel("After selection", f"{total - dropped} of {total} tokens stay", Plan(selected)))
    if merged:
        steps.append(Panel("After merging", f"{plan.tokens_after} of {total} tokens, {merged} merged into them", plan))
    return steps


def _cuts(stages: tuple[Stage, ...], total: int) -> list[Panel]:
    panels = []
    so_far = Plan.identity(total)
    for number, stage in enumerate(stages, start=1):
        try:
            so_far = so_far.then(stage.plan)
        except ValueError as error:
            raise InputError(f"cut {number} of the report contradicts the cuts before it: {error}") from error
        merged = int(((so_far.target != DROPPED) & (so_far.target != Plan.identity(total).target)).sum())
        counts = f"{so_far.tokens_after} of {total} tokens" + (f", {merged} merged into them" if merged else " stay")
        panels.append(Panel(f"Cut {number}, before layer {stage.layer}", counts, so_far))
    return panels


def _grid_text(image: ImageReport) -> str:
    frames, rows, columns = image.grid
    if len(image.parts) > 1:
        return f"{len(image.plan)} tokens in {len(image.parts)} parts"
    size = f"{rows} x {columns}" if frames == 1 else f"{frames} frames of {rows} x {columns}"
    return f"{len(image.plan)} tokens ({size})"
