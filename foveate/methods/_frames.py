"""Where the tokens of a view lie in time."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.devices import upload
from foveate.view import View

__all__ = ["frame_of"]


def frame_of(view: View) -> tuple[Tensor, int]:
    """The frame (n,) of each token, counted from 0, and how many frames there are; each crop of an image counts as a frame."""
    device = view.states.device
    sizes = torch.tensor([height * width for time, height, width in view.parts for _ in range(time)])
    if view.index is None:
        return upload(torch.arange(len(sizes)).repeat_interleave(sizes), device), len(sizes)
    return torch.bucketize(view.index.to(device), upload(sizes.cumsum(0), device), right=True), len(sizes)
