"""Pool: the cells that it cuts a grid into."""

from __future__ import annotations

import random
from collections import defaultdict

import pytest
import torch

from foveate.methods import Pool
from foveate.plan import Plan
from foveate.view import View

pytestmark = pytest.mark.one_version

GRIDS = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 7), (8, 10), (12, 12)]


def pooled(grid: tuple[int, int, int], keep: int | float, index: torch.Tensor | None = None) -> Plan:
    n = grid[0] * grid[1] * grid[2] if index is None else len(index)
    return Pool(keep).plan(View(torch.zeros(n, 2), grid, index=index))


def groups(plan: Plan) -> dict[int, list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for token, target in enumerate(plan.to_list()):
        members[target].append(token)
    return members


@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_every_budget_cuts_the_grid_into_that_many_filled_rectangles(height: int, width: int) -> None:
    for keep in range(1, height * width + 1):
        cells = groups(pooled((1, height, width), keep))
        assert len(cells) == keep
        assert -1 not in cells
        for members in cells.values():
            rows, columns = {i // width for i in members}, {i % width for i in members}
            assert len(members) == len(rows) * len(columns)
            assert max(rows) - min(rows) + 1 == len(rows)
            assert max(columns) - min(columns) + 1 == len(columns)


@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_a_mean_stands_at_the_centre_of_its_cell(height: int, width: int) -> None:
    for keep in range(1, height * width + 1):
        for centre, members in groups(pooled((1, height, width), keep)).items():
            for axis in ([i // width for i in members], [i % width for i in members]):
                middle = (min(axis) + max(axis)) // 2
                assert axis[members.index(centre)] == middle


def test_the_mean_of_a_cell_is_its_plain_mean() -> None:
    states = torch.arange(16.0).view(16, 1)
    assert Pool(4).plan(View(states, (1, 4, 4))).merge(states).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


@pytest.mark.parametrize("side", [2, 3, 4, 6, 8, 12])
def test_a_square_budget_gives_equal_squares(side: int) -> None:
    cells = groups(pooled((1, 24, 24), side * side))
    assert {len(members) for members in cells.values()} == {(24 // side) ** 2}
    assert all(len({i % 24 for i in members}) == 24 // side for members in cells.values())


@pytest.mark.parametrize("keep", [13, 64, 97, 127, 128, 192, 251])
def test_cells_are_balanced_and_nearly_square_for_any_budget(keep: int) -> None:
    cells = list(groups(pooled((1, 24, 24), keep)).values())
    sizes = [len(members) for members in cells]
    sides = [sorted((len({i // 24 for i in members}), len({i % 24 for i in members}))) for members in cells]
    assert max(sizes) <= 2 * min(sizes)
    assert all(long <= 2 * short for short, long in sides)


def test_a_video_is_pooled_frame_by_frame() -> None:
    plan = pooled((3, 4, 4), 4)
    assert plan.tokens_after == 12
    one = pooled((1, 4, 4), 4).target
    assert torch.equal(plan.target, torch.cat([one, one + 16, one + 32]))


def test_a_share_of_a_video_is_spread_over_its_frames_evenly() -> None:
    for share in (0.05, 0.15, 0.5, 0.77, 1.0):
        plan = pooled((5, 3, 4), share)
        per_frame = torch.bincount(plan.kept // 12, minlength=5)
        assert plan.tokens_after == Pool(share).budget(60, 5)
        if plan.tokens_after >= 5:
            assert int(per_frame.max() - per_frame.min()) <= 1
            assert all(len({i // 12 for i in members}) == 1 for members in groups(plan).values())


def test_fewer_cells_than_frames_span_whole_frames() -> None:
    cells = groups(pooled((8, 2, 3), 2 / 48))
    assert sorted(map(sorted, cells.values())) == [list(range(24)), list(range(24, 48))]


def test_parts_of_any_sizes_share_the_budget_and_none_goes_without() -> None:
    sizes = random.Random(0)
    for _ in range(200):
        parts = tuple((sizes.choice((1, 1, 2)), sizes.choice((1, 1, 2, 5)), sizes.choice((1, 1, 3, 9))) for _ in range(sizes.randint(2, 6)))
        part = torch.cat([torch.full((h * w,), 0) + frame for frame, (h, w) in enumerate((h, w) for t, h, w in parts for _ in range(t))])
        tokens, frames = len(part), int(part[-1]) + 1
        for keep in {1, frames, (frames + tokens) // 2, tokens}:
            plan = Pool(keep).plan(View(torch.zeros(tokens, 2), (1, 1, tokens), parts=parts))
            assert plan.tokens_after == keep
            assert plan.dropped.numel() == 0
            if keep >= frames:
                assert torch.equal(part[plan.target], part)


def test_frames_that_an_earlier_cut_left_uneven_keep_a_cell_each() -> None:
    index = torch.tensor([*range(25), 25, 50])
    plan = pooled((3, 5, 5), 5 / 27, index)
    assert torch.bincount(index[plan.kept] // 25).tolist() == [3, 1, 1]


@pytest.mark.parametrize("frames", [1, 3])
def test_tokens_left_by_an_earlier_cut_are_grouped_evenly(frames: int) -> None:
    generator = torch.Generator().manual_seed(0)
    cells = frames * 63
    for n in (frames, 10, 40, cells - 1, cells):
        index = torch.randperm(cells, generator=generator)[:n].sort().values
        for keep in {1, 2, n // 3 + 1, n - 1, n} & set(range(1, n + 1)):
            plan = pooled((frames, 7, 9), keep / n, index)
            assert plan.tokens_after == keep
            assert plan.dropped.numel() == 0
            sizes = [len(members) for members in groups(plan).values()]
            if frames == 1 and n < cells:
                assert max(sizes) - min(sizes) <= 1


def test_a_partial_grid_groups_neighbours() -> None:
    index = torch.tensor([i for i in range(64) if i % 8 < 4])
    plan = pooled((1, 8, 8), 8, index)
    for members in groups(plan).values():
        cells = index[torch.tensor(members)]
        assert int((cells // 8).max() - (cells // 8).min()) <= 1
        assert int((cells % 8).max() - (cells % 8).min()) <= 1


def test_a_full_grid_given_with_an_index_is_a_full_grid() -> None:
    assert pooled((2, 5, 6), 7, torch.arange(60)) == pooled((2, 5, 6), 7)


def test_changing_a_plan_does_not_change_the_next_one() -> None:
    first = pooled((1, 4, 4), 3)
    before = first.to_list()
    first.target.fill_(0)
    assert pooled((1, 4, 4), 3).to_list() == before
