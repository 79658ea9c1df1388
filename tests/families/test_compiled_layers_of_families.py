"""Every family runs its layers after the cut as compiled code, or says why not, and gives the same logits either way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES
from oracle import Sieve, prompt
from zoo import Case, known

import foveate

INJECTED = "the decoder adds features of the picture to the output of these layers"


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # tests/engine/test_compiled_layers.py compiles


@pytest.mark.parametrize("case", [case for case in CASES if known(case.model_type)], ids=str)
def test_compiled_layers_give_the_logits_of_the_uncompiled(case: Case) -> None:
    model, several = case.build(), case.several or case.image
    given = prompt(case, [[3, case.image(0), 5], [2, several(0), 6, several(1), 2], [7]], padding="left")

    def logits(**options: Any) -> tuple[torch.Tensor, Any]:
        with foveate.compress(model, Sieve(layer=2), **options) as handle:
            more = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
            return torch.stack(model.generate(**given.inputs, max_new_tokens=4, **more).logits), handle.compiled

    expected, _ = logits()
    found, use = logits(compiled=True)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)
    assert (use.compiled, use.reason) in ((1, None), (0, INJECTED))
    if use.reason is not None:
        assert foveate.families.family_of(model).injects
