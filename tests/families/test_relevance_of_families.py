"""Relevance of every family is the recursion over eager attention."""

from __future__ import annotations

import pytest
import torch
from cases import CASES
from oracle import Prompt, prompt
from relevance_oracle import closeness, oracle
from zoo import Case, known

import foveate


def alone(case: Case, given: Prompt, row: int) -> Prompt:
    """One row of a batch, without its padding."""
    real = given.inputs["attention_mask"][row].bool()
    first = int(real.nonzero()[0])
    tensors = case.join([given.pieces[row]]) if given.pieces[row] else {}
    inputs = {"input_ids": given.inputs["input_ids"][row, real][None], "attention_mask": real[real].long()[None], **tensors}
    if case.typed:
        inputs["mm_token_type_ids"] = given.inputs["mm_token_type_ids"][row, real][None]
    return Prompt(inputs, [[place - first for place in given.columns[row]]], [given.pieces[row]])


def assert_exact(case: Case, given: Prompt, answers: list[list[int]]) -> None:
    model = case.build()
    found = foveate.relevance(model, given.inputs, answers)
    places = [(row, position) for row, pieces in enumerate(given.pieces) for position in range(len(pieces))]
    assert [(image.row, image.position) for image in found.images] == places
    for row, answer in enumerate(answers):
        single = alone(case, given, row)
        expected = oracle(model, single.inputs, single.columns[0], answer)
        own = [image for image in found.images if image.row == row]
        for image, truth, shown in zip(own, expected, given.pieces[row], strict=True):
            assert (image.parts, image.kind) == (shown.parts, shown.kind)
            assert closeness(image.tokens, truth) < 1e-4
            assert torch.count_nonzero(truth) > truth.numel() / 4


@pytest.mark.parametrize("case", [case for case in CASES if known(case.model_type)], ids=str)
def test_relevance_is_the_recursion_over_eager_attention(case: Case) -> None:
    several = [(case.several or case.image)(seed) for seed in (1, 2)]
    assert_exact(case, prompt(case, [[3, case.image(0), 4], [2, several[0], 3, several[1], 6]]), [[7, 31], [12]])


@pytest.mark.parametrize("case", [case for case in CASES if known(case.model_type) and case.video], ids=str)
def test_relevance_of_a_video_is_the_recursion_over_eager_attention(case: Case) -> None:
    assert case.video is not None
    assert_exact(case, prompt(case, [[3, case.video(0), 4]], padding="right"), [[7, 31]])
