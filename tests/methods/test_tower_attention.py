"""TowerAttention: its ranking here, and what it reads of a real tower."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import batch, prompt, tiny_llava

import foveate
from foveate.errors import InputError, SignalError
from foveate.methods import TowerAttention
from foveate.view import View


def test_it_keeps_the_highest_attention_and_the_first_of_equals() -> None:
    attention = torch.tensor([0.1, 0.3, 0.2, 0.3, 0.2, 0.2])
    view = View(torch.zeros(6, 2), (1, 2, 3), tower_attention=attention)
    assert [TowerAttention(keep).plan(view).kept.tolist() for keep in (1, 2, 4, 6)] == [[1], [1, 3], [1, 2, 3, 4], [0, 1, 2, 3, 4, 5]]
    assert TowerAttention(2).plan(view).to_list() == [-1, 1, -1, 3, -1, -1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_frames_and_crops_are_one_ranking(dtype: torch.dtype) -> None:
    attention = torch.tensor([0.5, 0.125, 0.25, 0.0625, 0.75, 1, 0.375, 0.875], dtype=dtype)
    states = torch.zeros(8, 2)
    assert TowerAttention(2).plan(View(states, (2, 2, 2), kind="video", tower_attention=attention)).kept.tolist() == [0, 4, 5, 7]
    crops = View(states, (1, 1, 8), parts=((1, 2, 3), (1, 1, 2)), tower_attention=attention)
    assert TowerAttention(3).plan(crops).kept.tolist() == [4, 5, 7]


def test_it_keeps_what_the_class_token_of_a_tower_attends_to() -> None:
    model = tiny_llava(attention="eager")
    inputs = batch([prompt(3, "image", 5)])
    config = model.config.vision_config
    with torch.no_grad():
        seen = model.model.vision_tower(inputs["pixel_values"], output_attentions=True)
    # Features are those after the last layer but one, which is the first of two.
    assert (model.config.vision_feature_layer, config.num_hidden_layers) == (-2, 2)
    paid = seen.attentions[0][0, :, 0, 1:].mean(0)
    with foveate.compress(model, TowerAttention(keep=6)) as handle, torch.no_grad():
        model(**inputs)
    assert handle.report.images[0].plan.kept.tolist() == sorted(paid.argsort(descending=True)[:6].tolist())


def test_it_says_what_it_cannot_rank() -> None:
    assert TowerAttention(2).needs == {"tower_attention"}
    with pytest.raises(SignalError, match="tower_attention"):
        TowerAttention(2).plan(View(torch.zeros(6, 2), (1, 2, 3)))
    with pytest.raises(InputError, match="tower_attention contains NaN"):
        TowerAttention(1).plan(View(torch.zeros(3, 2), (1, 1, 3), tower_attention=torch.tensor([0.1, math.nan, 0.2])))
