"""EVS against an example worked out by hand, and against its definition in loops."""

from __future__ import annotations

import math

import pytest
import torch
from merging_reference import slow_evs
from methods_reference import decaying
from torch import Tensor

from foveate.errors import InputError
from foveate.methods import EVS
from foveate.view import View

pytestmark = pytest.mark.one_version


def video(states: Tensor, frames: int) -> View:
    return View(states, (frames, 1, len(states) // frames), kind="video")


def test_an_example_worked_out_by_hand() -> None:
    # Three frames of two tokens. Token 2 repeats 0, 3 is opposite to 1; 4 is at a right angle to 2, and 5 repeats 3.
    states = torch.tensor([[1.0, 0], [0, 1], [2, 0], [0, -1], [0, 3], [0, -4]])
    assert EVS(1).plan(video(states, 3)).kept.tolist() == [0, 1, 3]
    assert EVS(4 / 6).plan(video(states, 3)).kept.tolist() == [0, 1, 3, 4]
    assert EVS(5 / 6).plan(video(states, 3)).kept.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("frames", "size", "d"), [(2, 3, 4), (3, 8, 12), (5, 12, 9)])
def test_it_agrees_with_its_definition_for_every_budget(frames: int, size: int, d: int, dtype: torch.dtype) -> None:
    states = decaying(frames * size, d, seed=frames + d).to(dtype)
    for keep in range(size, frames * size):
        plan = EVS(keep / (frames * size)).plan(video(states, frames))
        assert plan.kept.tolist() == slow_evs(states.double().numpy(), size, keep), keep


def test_a_still_video_keeps_its_first_frame_and_then_the_earliest_tokens() -> None:
    assert EVS(3).plan(video(decaying(5, 9, 0).repeat(4, 1), 4)).kept.tolist() == list(range(12))


def test_less_than_a_frame_is_evenly_spaced_in_it() -> None:
    assert EVS(0.1).plan(video(decaying(80, 9, 0), 2)).kept.diff().tolist() == [5] * 7
    assert EVS(4).plan(View(decaying(32, 9, 0), (1, 4, 8))).kept.diff().tolist() == [8, 8, 8]
    assert EVS(4).plan(View(decaying(32, 9, 0), (1, 1, 32), parts=((1, 4, 4), (1, 4, 4)))).kept.diff().tolist() == [8, 8, 8]


def test_after_an_earlier_cut_a_token_is_compared_with_the_last_one_at_its_place() -> None:
    states = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]])
    # Cells 0 and 1 of frame 0, cell 1 of frame 1, and both of frame 2, of which cell 0 is gone: 1, 3 and 5 are one place.
    view = View(states, (3, 1, 2), kind="video", index=torch.tensor([0, 1, 3, 5]))
    assert EVS(1).plan(view).kept.tolist() == [0, 1, 3]


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would.
    views = [video(decaying(30, 9, seed), 3) for seed in range(3)]
    assert EVS(4)._decided(views, 12) == EVS(4).plans(views)


def test_features_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinity, so EVS cannot compare its tokens"):
        EVS(5).plan(video(decaying(20, 9, 0).fill_(math.nan), 2))
