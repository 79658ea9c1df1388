"""A second turn on the compressed cache, and the model as it was once the handle is gone: in every family."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from cases import CASES
from oracle import Sieve, prompt, truth
from zoo import Case, known

import foveate
from foveate.families import family_of

FIRST, SECOND = 5, 27
KNOWN = [case for case in CASES if known(case.model_type) and not case.brief]


def state(model: Any) -> list[Any]:
    """What an attached handle could leave in the model: hooks, attributes, configurations."""
    parts = [(name, sorted(vars(part)), len(part._forward_hooks), len(part._forward_pre_hooks)) for name, part in model.named_modules()]
    configs = [(id(part.config), part.config.to_json_string()) for part in model.modules() if hasattr(part, "config")]
    return [*parts, configs]


def generate(model: Any, steps: int, **inputs: Any) -> Any:
    return model.generate(**inputs, max_new_tokens=steps, do_sample=False, output_logits=True, return_dict_in_generate=True)


@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_a_second_turn_continues_and_removal_restores_the_model(case: Case) -> None:
    model = case.build()
    several = case.several or case.image
    given = prompt(case, [[3, (case.video or case.image)(0), 5], [2, several(1), 6, several(2), 2]])
    width = given.inputs["input_ids"].shape[1]
    with torch.no_grad():
        expected = model(**given.inputs).logits
    before = state(model)
    handle = foveate.compress(model, Sieve(layer=2))

    first = generate(model, FIRST, **given.inputs)
    removed = handle.report.tokens_before - handle.report.tokens_after
    cache = copy.deepcopy(first.past_key_values)
    generate(model, 2, **prompt(case, [[1, case.image(1), 2]]).inputs)  # another generation in between
    question = torch.randint(2, 60, (2, 4), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([first.sequences, question], 1)
    mask = torch.cat([given.inputs["attention_mask"], torch.ones(2, ids.shape[1] - width, dtype=torch.long)], 1)
    second = generate(model, SECOND, input_ids=ids, attention_mask=mask, past_key_values=cache)

    handle.remove()
    assert state(model) == before
    with torch.no_grad():
        assert torch.equal(model(**given.inputs).logits, expected)
    assert removed > 0
    full = truth(case, model, family_of(model), given, second.sequences, 2)
    torch.testing.assert_close(torch.stack(first.logits, 1), full[:, width - 1 : width + FIRST - 1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(second.logits, 1), full[:, -SECOND - 1 : -1], atol=1e-4, rtol=1e-4)


def test_what_is_not_removed_would_be_seen() -> None:
    model = CASES[0].build()
    before = state(model)
    handle = foveate.compress(model, Sieve(layer=2))
    assert state(model) != before
    handle.remove()
    assert state(model) == before
