"""A model is recognised in another precision, and distinguished from every other."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from cases import CASES
from tiny import tiny_llava
from torch import nn
from zoo import Case, known

from foveate import demo
from foveate.engine.identity import ModelIdentity, identity
from foveate.errors import UnsupportedModelError
from foveate.families import family_of

KNOWN = [case for case in CASES if known(case.model_type)]


@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_every_family_has_weights_that_identify_it(case: Case) -> None:
    found = identity(case.build())
    assert found.weights is not None
    assert found.heads > 0
    assert ModelIdentity.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_precision_makes_no_other_model(dtype: torch.dtype) -> None:
    model, _ = demo.load()
    whole = identity(model)
    assert identity(model.to(dtype)) == whole
    assert not whole.differences(identity(model))


def projection(model: Any, name: str) -> nn.Linear:
    return getattr(family_of(model).attention(family_of(model).layers(model)[0]), name)


@pytest.mark.parametrize("name", ["q_proj", "k_proj"])
def test_one_changed_weight_makes_another_model(name: str) -> None:
    model = tiny_llava()
    before = identity(model)
    with torch.no_grad():
        projection(model, name).weight[0, 0] += 1
    (told,) = identity(model).differences(before)
    assert told.startswith("weights ")


def test_another_shape_is_named_in_words() -> None:
    one = identity(tiny_llava())
    other = ModelIdentity(**{**one.to_dict(), "layers": 7, "hidden": 99})
    assert other.differences(one) == [f"hidden 99 instead of {one.hidden}", f"layers 7 instead of {one.layers}"]


def test_weights_that_cannot_be_read_differ_from_nothing() -> None:
    model = tiny_llava()
    read = identity(model)
    layer = family_of(model).attention(family_of(model).layers(model)[0])
    layer.q_proj.weight = nn.Parameter(layer.q_proj.weight.to(torch.uint8), requires_grad=False)
    unread = identity(model)
    assert unread.weights is None
    assert not unread.differences(read)
    assert not read.differences(unread)


def test_a_model_of_no_family_has_no_identity() -> None:
    with pytest.raises(UnsupportedModelError, match="no known family"):
        identity(nn.Linear(2, 2))
