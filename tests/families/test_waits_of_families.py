"""What families read of a prompt on an accelerator, sizes of pictures included, comes in the one copy that a prefill waits for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES
from devices import FIRST, put
from oracle import prompt
from waits import Waits
from zoo import Case, known

import foveate
from foveate import FastV

MOST = 2
IMITATED = [case for case in CASES if known(case.model_type) and not case.brief]


@pytest.mark.parametrize("case", IMITATED, ids=str)
def test_a_prefill_waits_twice(case: Case) -> None:
    model = case.build()
    put([*model.parameters(), *model.buffers()], FIRST)
    inputs = prompt(case, [[3, case.image(0), 5], [3, case.image(1), 5]]).inputs

    def prefill() -> tuple[list[str], Any]:
        with torch.no_grad(), Waits() as waits:
            model(**put({name: value.clone() for name, value in inputs.items()}, FIRST))
        return waits.found, None

    try:
        prefill()
    except NotImplementedError as error:
        pytest.skip(f"the model does something else on an accelerator, which this CPU cannot: {error}")
    plain, _ = prefill()
    with foveate.compress(model, FastV(keep=0.5)) as handle:
        prefill()
        found, _ = prefill()
        with Waits():
            assert all(image.tokens_after < image.tokens_before for image in handle.report.images)
    ours = [each for each in found if "foveate/" in each]
    assert len(ours) <= MOST, ours
    assert len(found) <= len(plain) + MOST, found
