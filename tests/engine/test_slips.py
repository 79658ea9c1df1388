"""Slips of the hand: each gets the line that helps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import batch, prompt, tiny_llava

import foveate
from foveate import FastV, Pool, Random, TokenCarve
from foveate.errors import FoveateError, UsageError

MODEL = tiny_llava()


@pytest.mark.parametrize(
    ("model", "method", "match"),
    [
        (MODEL, TokenCarve, r"class TokenCarve.*TokenCarve\(keep=128\)"),
        (MODEL, [FastV(keep=4), TokenCarve], "class TokenCarve"),
        (MODEL, "tokencarve", "name 'tokencarve'.*parse_method"),
        (MODEL, None, "non-empty list.*NoneType"),
        (MODEL, [], "non-empty list"),
        (MODEL, 128, "int 128"),
        (MODEL, {"keep": 128}, "dict"),
        (FastV(keep=4), MODEL, "model comes first"),
        (MODEL, MODEL, "second argument is a model"),
        ("llava-hf/llava-1.5-7b-hf", FastV(keep=4), r"a name.*from_pretrained\('llava-hf/llava-1.5-7b-hf'\)"),
        (SimpleNamespace(model=MODEL, task="image-text-to-text"), FastV(keep=4), r"pass its \.model \(LlavaForConditionalGeneration\)"),
        (type(MODEL), FastV(keep=4), "a class"),
        (None, FastV(keep=4), "not a loaded transformers model"),
    ],
)
def test_wrong_arguments_of_compress(model: Any, method: Any, match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        foveate.compress(model, method)
    assert isinstance(caught.value, FoveateError)
    assert isinstance(caught.value, TypeError)
    assert foveate.handle_of(MODEL) is None


@pytest.mark.parametrize(("name", "value"), [("keep", 64), ("method", FastV(keep=4)), ("report", None), ("active", False)])
def test_a_handle_cannot_be_changed(name: str, value: Any) -> None:
    with foveate.compress(MODEL, FastV(keep=4)) as handle, pytest.raises(AttributeError, match=rf"{name}.*remove\(\).*FastV\(keep=4\)"):
        setattr(handle, name, value)


@pytest.mark.parametrize("number", [np.int64, np.int32, np.uint8], ids=lambda kind: kind.__name__)
def test_numpy_integers_are_integers_everywhere(number: Any) -> None:
    for method in (FastV(keep=number(4), layer=number(1)), Random(keep=number(4), layer=number(2), seed=number(3))):
        plain = type(method)(**{name: value.item() if isinstance(value, np.generic) else value for name, value in vars(method).items()})
        assert method == plain
        assert str(method) == str(plain)
        assert all(not isinstance(value, np.generic) for value in vars(method).values())
    assert foveate.tokens_after(Pool(keep=number(4)), [(number(1), number(4), number(4)), [(number(1), number(2), number(2))] * 2]) == [
        4,
        4,
    ]
    with foveate.compress(MODEL, Random(keep=number(4), layer=number(1))) as handle, torch.no_grad():
        MODEL(**batch([prompt(3, "image", 5)]))
    assert handle.report.tokens_after == 4


@pytest.mark.parametrize("method", [TokenCarve, FastV], ids=lambda kind: kind.__name__)
def test_tokens_after_names_a_class_too(method: Any) -> None:
    with pytest.raises(TypeError, match="TokenCarve\\(keep=128\\)"):
        foveate.tokens_after(method, [(1, 4, 4)])
