"""Families with crops, rows of patches or frames: what is content, and that pruning equals masking."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import CASES
from oracle import Prompt, Sieve, prompt, sieve, truth
from torch import Tensor
from zoo import Case, known

import foveate
from foveate.families import family_of

STEPS = 32


def scenarios(case: Case) -> dict[str, list[list[Any]]]:
    """What a prompt may hold, by name."""
    several = case.several or case.image
    mixed: list[list[Any]] = [[3, case.image(3), 5], [2, several(0), 6, several(1), 2], [7]]
    if case.brief:
        return {"mixed batch": mixed}
    found = {"one image": [[3, case.image(0), 5]], "several images": [[3, several(1), 2, several(2), 4]], "mixed batch": mixed}
    if case.video is not None:
        found["video"] = [[3, case.video(0), 5], [6, case.video(1), 2]]
        found["image and video"] = [[3, case.image(1), 2, case.video(0), 4]]
    return found


MATRIX = [pytest.param(case, name, id=f"{case}, {name}") for case in CASES for name in scenarios(case) if known(case.model_type)]


def generate(model: Any, inputs: dict[str, Tensor], steps: int, **options: Any) -> Any:
    more = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return model.generate(**inputs, max_new_tokens=steps, **more, **options)


def check_report(given: Prompt, handle: foveate.Handle) -> None:
    images = handle.report.images
    pieces = [(row, piece) for row, pieces in enumerate(given.pieces) for piece in pieces]
    assert [image.row for image in images] == [row for row, _ in pieces]
    assert [image.tokens_before for image in images] == [len(piece.content) for _, piece in pieces]
    assert [image.tokens_after for image in images] == [sieve(len(piece.content)).tokens_after for _, piece in pieces]
    assert [image.parts for image in images] == [piece.parts for _, piece in pieces]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(("case", "name"), MATRIX)
def test_pruning_equals_masking_in_prefill_and_32_new_tokens(case: Case, name: str, padding: str) -> None:
    model = case.build()
    given = prompt(case, scenarios(case)[name], padding=padding)
    if padding == "right" and len(given.pieces) == 1:
        pytest.skip("nothing to pad")
    width = given.inputs["input_ids"].shape[1]
    for layer, trim in ((2, True), (1, False)) if padding == "left" else ((0, True),):
        with foveate.compress(model, Sieve(layer=layer), trim_early_layers=trim) as handle:
            out = generate(model, given.inputs, STEPS)
        check_report(given, handle)
        expected = truth(case, model, family_of(model), given, out.sequences, layer, trim=trim)
        last = (given.inputs["attention_mask"] * torch.arange(1, width + 1)).argmax(1)
        torch.testing.assert_close(out.logits[0], expected[torch.arange(len(last)), last], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.stack(out.logits[1:], 1), expected[:, width:-1], atol=1e-4, rtol=1e-4)
