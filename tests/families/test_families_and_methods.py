"""Every method on every family: it runs, keeps exactly its budget, and leaves everything else where it was."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CASES
from compressors import untrained
from oracle import Prompt, prompt
from torch import Tensor
from zoo import Case, Piece, known

import foveate
from foveate import Explainer, FastV, Method, Oracle, Pool, TokenCarve
from foveate.families import family_of
from foveate.families.base import TOWER_SIGNALS
from foveate.methods import methods

Rotary = tuple[Tensor, ...]
KNOWN = [case for case in CASES if known(case.model_type)]
KEEP = 3


def true_of(given: Prompt | None) -> list[Tensor]:
    """A relevance for every image of a prompt."""
    pieces = [piece for row in given.pieces for piece in row] if given else []
    return [torch.rand(len(piece.content), generator=torch.Generator().manual_seed(place)) for place, piece in enumerate(pieces)]


TAUGHT: dict[str, Callable[..., Method]] = {
    "explainer": lambda model, given, **options: Explainer(compressor=untrained(model) if model else "demo", **options),
    "oracle": lambda model, given, **options: Oracle(relevance=true_of(given), **options),
}
"""Methods that must be given something of the model or the prompt."""


def method_of(name: str, model: Any = None, given: Prompt | None = None, **options: Any) -> Method:
    return TAUGHT[name](model, given, **options) if name in TAUGHT else methods()[name](**options)


def schedule_of(name: str, model: Any, given: Prompt) -> list[Method]:
    if name == "a schedule":
        return [FastV(keep=0.7, layer=1), TokenCarve(keep=2, layer=3)]
    return [method_of(name, model, given, keep=KEEP)]


SCHEDULES = (*methods(), "a schedule")
"""Every registered method, so that a new one is tested at once."""


@functools.lru_cache(maxsize=1)
def built(case: Case) -> tuple[Any, Prompt, Tensor, Rotary]:
    """Model and prompt: an image alone, several, and a video between an image and text. Then what enters two layers of the full model."""
    several = case.several or case.image
    rows: list[list[Any]] = [[3, case.image(0), 5], [2, several(1), 6, several(2), 2]]
    if case.video is not None:
        rows.append([1, case.image(1), 2, case.video(0), 4])
    model, given = case.build(), prompt(case, rows)
    return model, given, entering(model, given, 0)[0], entering(model, given, -1)[1]


def entering(model: Any, given: Prompt, layer: int) -> tuple[Tensor, Rotary, Any]:
    """The states that enter a decoder layer, its cos and sin, (..., b, n, d) each, and what the model returns."""
    calls: list[tuple[Tensor, Rotary]] = []
    hook = (
        family_of(model)
        .layers(model)[layer]
        .register_forward_pre_hook(lambda _, args, kwargs: calls.append((args[0], kwargs["position_embeddings"])), with_kwargs=True)
    )
    with torch.no_grad():
        output = model(**given.inputs, use_cache=True)
    hook.remove()
    ((states, rotary),) = calls
    return states, tuple(part.expand(*part.shape[:-3], len(states), -1, -1) for part in rotary), output


def shape(piece: Piece) -> Any:
    return piece.parts[0] if len(piece.parts) == 1 else piece.parts


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_exactly_the_budget_stays_at_its_own_positions(case: Case, name: str) -> None:
    model, given, _, full = built(case)
    schedule = schedule_of(name, model, given)
    missing = frozenset[str]().union(*(method.needs for method in schedule)) - family_of(model).gives(model)
    if missing:
        assert missing <= TOWER_SIGNALS
        with pytest.raises(foveate.errors.SignalError, match=f"needs .*{min(missing)}.*gives only"):
            foveate.compress(model, schedule)
        return
    pieces = [piece for row in given.pieces for piece in row]
    places = [(row, place) for row, columns in enumerate(given.columns) for place in columns]
    with foveate.compress(model, schedule) as handle:
        _, short, out = entering(model, given, -1)
    report = handle.report

    assert [image.tokens_before for image in report.images] == [len(piece.content) for piece in pieces]
    after = [image.tokens_after for image in report.images]
    assert after == foveate.tokens_after(schedule, [shape(piece) for piece in pieces])
    frames = [piece.parts[0][0] if piece.kind == "video" else 1 for piece in pieces]
    last = schedule[-1].keep
    assert after == [last * count for count in frames]

    real = given.inputs["attention_mask"].bool()
    for image, (row, place) in zip(report.images, places, strict=True):
        assert image.row == row
        real[row, place] = False
        real[row, place[image.plan.kept]] = True
    for row, columns in enumerate(report.columns):
        assert [column for column in columns if column >= 0] == real[row].nonzero().flatten().tolist()
        for part, whole in zip(short, full, strict=True):
            where = torch.tensor(columns)
            torch.testing.assert_close(part[..., row, where >= 0, :], whole[..., row, where[where >= 0], :], atol=0, rtol=0)

    width = len(report.columns[0])
    assert out.logits.isfinite().all()
    assert out.logits.shape[1] == width
    assert {layer.keys.shape[-2] for layer in out.past_key_values.layers} == {width}
    assert out.past_key_values.get_seq_length() == given.inputs["input_ids"].shape[1]


def frames_of(piece: Piece) -> Tensor:
    """The part, or frame of a video, of each token."""
    sizes = [(rows * columns) for frames, rows, columns in piece.parts for _ in range(frames)]
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


PARTED = [case for case in KNOWN if case.video or any(len(case.image(seed).parts) > 1 for seed in range(3))]


@pytest.mark.parametrize("share", [0.3, 0.8])
@pytest.mark.parametrize("case", PARTED, ids=str)
def test_pool_averages_rectangles_of_single_crops_and_frames(case: Case, share: float) -> None:
    model, given, before, _ = built(case)
    with foveate.compress(model, Pool(keep=share, layer=0)) as handle:
        after, _, _ = entering(model, given, 0)
    pieces = [piece for row in given.pieces for piece in row]
    places = [place for columns in given.columns for place in columns]
    for image, piece, place in zip(handle.report.images, pieces, places, strict=True):
        target, frame = image.plan.target, frames_of(piece)
        assert image.plan.dropped.numel() == 0
        assert torch.equal(frame[target], frame)
        sizes, kept = torch.bincount(frame), torch.bincount(frame[image.plan.kept], minlength=int(frame.max()) + 1)
        assert all(abs(int(own) - len(image.plan.kept) * int(size) / len(frame)) <= 1 for own, size in zip(kept, sizes, strict=True))
        sides = [(rows, columns) for count, rows, columns in piece.parts for _ in range(count)]
        for centre in image.plan.kept.tolist():
            members = (target == centre).nonzero().flatten()
            columns = sides[int(frame[centre])][1]
            inside = members - int(sizes[: int(frame[centre])].sum())
            high, wide = (int(axis.max() - axis.min()) + 1 for axis in (inside // columns, inside % columns))
            assert high * wide == len(members)
            column = handle.report.columns[image.row].index(int(place[centre]))
            torch.testing.assert_close(after[image.row, column], before[image.row, place[members]].mean(0), atol=1e-6, rtol=1e-5)


# From shapes alone.


GRIDS = [(1, 24, 24), (8, 14, 14), [(1, 24, 24), (1, 30, 21)], ((1, 12, 12),) * 5]


def test_shapes_alone_determine_what_remains() -> None:
    totals = [math.prod(grid) if isinstance(grid[0], int) else sum(map(math.prod, grid)) for grid in GRIDS]
    for name in methods():
        assert foveate.tokens_after(method_of(name, keep=128), GRIDS) == [128, 8 * 128, 128, 128]
        assert foveate.tokens_after(method_of(name, keep=0.1), GRIDS) == [math.floor(0.1 * total + 0.5) for total in totals]
        assert foveate.tokens_after([method_of(name, keep=0.5), Pool(keep=10, layer=9)], GRIDS) == [10, 80, 10, 10]
        assert foveate.tokens_after(method_of(name, keep=9999, clamp=True), GRIDS) == totals
        assert foveate.tokens_after(method_of(name, keep=3), []) == []


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda make: foveate.tokens_after([], GRIDS), TypeError, "a Method or a non-empty list"),
        (lambda make: foveate.tokens_after([make(keep=3), 4], GRIDS), TypeError, "a Method or a non-empty list"),
        (lambda make: foveate.tokens_after([make(keep=3), make(keep=2)], GRIDS), foveate.errors.LayerError, "must increase"),
        (lambda make: foveate.tokens_after(make(keep=197), GRIDS), foveate.errors.BudgetError, r"keep=197 x 8 frames.*the 1568 that"),
        (lambda make: foveate.tokens_after([make(keep=9), make(keep=10, layer=5)], GRIDS[:1]), foveate.errors.BudgetError, "the 9 that"),
        (lambda make: foveate.tokens_after(make(keep=3), (1, 24, 24)), ValueError, r"1 is not a grid.*\[\(1, 24, 24\)\]"),
        (lambda make: foveate.tokens_after(make(keep=3), [(24, 24)]), ValueError, r"24\) is not a grid"),
        (lambda make: foveate.tokens_after(make(keep=3), [(1, 0, 24)]), ValueError, r"\(1, 0, 24\) is not a grid"),
        (lambda make: foveate.tokens_after(make(keep=3), [(1, 2.0, 24)]), ValueError, r"\(1, 2.0, 24\) is not a grid"),
        (lambda make: foveate.tokens_after(make(keep=3), [torch.tensor([1, 4, 4])]), ValueError, "is not a grid"),
        (lambda make: foveate.tokens_after(make(keep=3), [[(1, 4, 4), 16]]), ValueError, "16 is not a grid"),
        (lambda make: foveate.tokens_after(make(keep=3), [()]), ValueError, "at least one grid"),
    ],
)
def test_shapes_and_methods_that_say_nothing_are_refused(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(Pool)
