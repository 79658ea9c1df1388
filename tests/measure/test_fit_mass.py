"""The mass at which a method keeps a wanted number of tokens on average."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import batch, prompt, tiny_llava

import foveate
from foveate import DivPrune, FastV, PyramidDrop, TokenCarve
from foveate.errors import InputError, UsageError
from foveate.measure.fit_mass import fit_mass

BATCHES = [
    batch([prompt(3, "image", 5), prompt(2, "image", 9, "image", 2, seed=1)]),
    batch([prompt(3, "image", 4, seed=2)], seed=1),
]


def kept(model: Any, method: foveate.Method) -> list[int]:
    found: list[int] = []
    with foveate.compress(model, method) as handle, torch.no_grad():
        for inputs in BATCHES:
            model(**inputs)
            found += [image.tokens_after for image in handle.report.images]
    return found


@pytest.mark.parametrize("method", [FastV(keep=1.0, mass=1.0, at_least=2), TokenCarve(keep=12), PyramidDrop(keep=1.0, at=(2,))], ids=str)
@pytest.mark.parametrize("wanted", [4, 7.5])
def test_the_fitted_method_keeps_what_the_fit_says(method: Any, wanted: float) -> None:
    model = tiny_llava()
    fitted = fit_mass(model, method, BATCHES, wanted)
    assert kept(model, fitted.method) == list(fitted.numbers)
    assert fitted.average == sum(fitted.numbers) / 4
    assert abs(fitted.average - wanted) <= 0.5
    assert type(fitted.method) is type(method)
    assert (fitted.method.keep, fitted.method.at_least) == (method.keep, method.at_least)
    assert foveate.handle_of(model) is None


def test_what_cannot_be_fitted_is_refused() -> None:
    model = tiny_llava()
    with pytest.raises(UsageError, match=r"budget can follow the image \(.*FastV.*TokenCarve.*\); got DivPrune"):
        fit_mass(model, DivPrune(keep=4), BATCHES, 4)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="acts in 2 stages"):
        fit_mass(model, PyramidDrop(keep=4, layer=0, at=(1, 2)), BATCHES, 4)
    with pytest.raises(
        InputError, match=r"an average of 9 tokens cannot be reached: with keep=8 and at_least=1 these images keep 1.0 to 8.0"
    ):
        fit_mass(model, FastV(keep=8), BATCHES, 9)
    with pytest.raises(InputError, match="tokens=0 must be"):
        fit_mass(model, FastV(keep=8), BATCHES, 0)
    with pytest.raises(InputError, match="no image"):
        fit_mass(model, FastV(keep=8), [batch([prompt(7)])], 4)
    assert foveate.handle_of(model) is None
