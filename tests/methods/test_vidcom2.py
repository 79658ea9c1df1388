"""VidCom2 against examples worked out by hand, and against the authors' formulas in loops."""

from __future__ import annotations

import math

import pytest
import torch
from merging_reference import slow_vidcom2
from methods_reference import decaying
from torch import Tensor

from foveate.errors import InputError
from foveate.methods import VidCom2
from foveate.view import View

pytestmark = pytest.mark.one_version


def video(states: Tensor, frames: int) -> View:
    return View(states, (frames, 1, len(states) // frames), kind="video")


def test_what_stands_out_is_kept_by_hand() -> None:
    # Four frames of five tokens, all alike but for token 2 of frame 1, and all of frame 3. The last two channels vary more: they are
    # no part of the choice.
    states = torch.zeros(20, 4)
    states[:, 0] = 1
    states[7, :2] = torch.tensor([0.0, 1])
    states[15:, :2] = torch.tensor([0.8, 0.6])
    states[:, 2:] = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)) * 100
    # Frame 3 stands out: almost all of p is its own, so shares are 5 * (0.75 0.75 0.75 1.75). Of six tokens each frame has one, and the
    # other two go where share / 1.5, share / 2.5 ... is highest: 5.8 and 3.5 to frame 3.
    assert VidCom2(0.3).plan(video(states, 4)).kept.tolist() == [0, 7, 10, 15, 16, 17]


@pytest.mark.parametrize(("frames", "size", "d"), [(1, 9, 6), (2, 3, 4), (3, 8, 12), (5, 12, 9)])
def test_it_agrees_with_the_authors_formulas_for_every_budget(frames: int, size: int, d: int) -> None:
    states = decaying(frames * size, d, seed=frames + d) + torch.arange(frames).repeat_interleave(size)[:, None] / 9
    for keep in range(1, size):
        plan = VidCom2(keep).plan(video(states, frames))
        assert plan.kept.tolist() == slow_vidcom2(list(states.double().view(frames, size, d).numpy()), keep * frames), keep
    for share in (0.05, 0.3, 0.77):
        plan = VidCom2(share).plan(video(states, frames))
        expected = slow_vidcom2(list(states.double().view(frames, size, d).numpy()), VidCom2(share).budget(len(states)))
        assert plan.kept.tolist() == expected, share


def test_a_crop_of_an_image_is_a_frame_of_its_own_size() -> None:
    states = decaying(26, 9, 0)
    view = View(states, (1, 1, 26), parts=((1, 2, 4), (1, 3, 6)))
    assert VidCom2(9).plan(view).kept.tolist() == slow_vidcom2([states[:8].double().numpy(), states[8:].double().numpy()], 9)


def test_frames_keep_their_tokens_after_an_earlier_cut() -> None:
    states, index = decaying(24, 9, 0), torch.tensor([0, 1, 3, 4, 5, 6, 16, 17, 20, 21, 22, 23])
    view = View(states[index], (4, 2, 3), kind="video", index=index)
    # Frame 1 has one token, frame 2 the cells 12 to 17 of which two are left, frame 3 four.
    frames = [states[index[bounds]].double().numpy() for bounds in (slice(0, 5), slice(5, 6), slice(6, 8), slice(8, 12))]
    for keep in (1, 2):
        assert VidCom2(keep).plan(view).kept.tolist() == slow_vidcom2(frames, 4 * keep)


def test_every_frame_keeps_a_token_if_there_are_enough() -> None:
    states = decaying(60, 9, 0)
    states[:50] = states[0] + states[:50] * 1e-3
    kept = VidCom2(1).plan(video(states, 6)).kept
    assert (kept // 10).unique().tolist() == [0, 1, 2, 3, 4, 5]


def test_images_that_are_decided_for_together_are_decided_for_as_if_alone() -> None:
    # On a CPU they are not, so this calls what an accelerator would.
    views = [video(decaying(30, 9, seed), 3) for seed in range(3)]
    assert VidCom2(4)._decided(views, 12) == VidCom2(4).plans(views)


def test_features_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinity, so VidCom2 cannot compare its tokens"):
        VidCom2(5).plan(video(decaying(20, 9, 0).fill_(math.nan), 2))
