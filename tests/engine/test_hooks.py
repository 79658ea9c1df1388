"""Hooks of handles that follow each other are the same, and keep nothing alive."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from tiny import batch, prompt, tiny_llava
from torch import nn

import foveate
from foveate import FastV, TokenCarve
from foveate.method import Method


def two_rows() -> dict[str, Any]:
    """Two pictures with questions of unequal length."""
    return batch([prompt(3, "image", 5), prompt(3, "image", 7, seed=1)])


def hooks_of(model: nn.Module) -> list[tuple[str, int, int]]:
    """Every hook outside the vision tower, where transformers has its own: its module, its number and its identity."""
    return [
        (name, number, id(hook))
        for name, module in model.named_modules()
        if "vision_tower" not in name
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for number, hook in hooks.items()
    ]


def plans(model: Any) -> list[list[int]]:
    with torch.no_grad():
        model(**two_rows())
    handle = foveate.handle_of(model)
    assert handle is not None
    return [image.plan.to_list() for image in handle.report.images]


@pytest.mark.parametrize("later", [FastV(keep=4), TokenCarve(keep=6, layer=1)], ids=repr)
def test_the_next_handle_has_the_same_hooks_and_does_what_it_says(later: Method) -> None:
    model = tiny_llava()
    with foveate.compress(model, FastV(keep=6)):
        first, before = hooks_of(model), plans(model)
    assert hooks_of(model) == []
    fresh = tiny_llava()
    foveate.compress(fresh, later)
    with foveate.compress(model, later):
        assert hooks_of(model) == first
        assert plans(model) == plans(fresh) != before
    with foveate.compress(model, FastV(keep=6)):
        assert hooks_of(model) == first
        assert plans(model) == before


def test_hooks_of_others_stay_where_they_are() -> None:
    model, order = tiny_llava(), []
    decoder = model.model.language_model
    with foveate.compress(model, FastV(keep=6)):
        pass
    other = decoder.register_forward_pre_hook(lambda *_: order.append("other"))
    with foveate.compress(model, FastV(keep=6)):
        expected = plans(model)
        assert next(iter(decoder._forward_pre_hooks)) == other.id
    assert list(decoder._forward_pre_hooks) == [other.id]
    other.remove()
    with foveate.compress(model, FastV(keep=6)):
        assert plans(model) == expected
    assert order == ["other"]


def test_a_copy_has_hooks_of_its_own() -> None:
    model = tiny_llava()
    handle = foveate.compress(model, FastV(keep=6))
    twin = copy.deepcopy(model)
    own = foveate.handle_of(twin)
    assert own is not None
    assert own is not handle
    assert not {hook for _, _, hook in hooks_of(model)} & {hook for _, _, hook in hooks_of(twin)}
    handle.remove()
    assert foveate.handle_of(model) is None
    kept = plans(twin)
    own.remove()
    assert hooks_of(twin) == hooks_of(model) == []
    with foveate.compress(model, FastV(keep=6)), foveate.compress(twin, FastV(keep=6)):
        assert plans(twin) == plans(model) == kept


@pytest.mark.parametrize("removed", [False, True])
def test_a_model_that_nobody_holds_is_freed(removed: bool) -> None:
    model = tiny_llava()
    handle = foveate.compress(model, FastV(keep=6))
    plans(model)
    if removed:
        handle.remove()
    gone = weakref.ref(model)
    del model, handle
    gc.collect()
    assert gone() is None
