"""A second picture on a compressed cache, in families whose positions have several axes: right by the positions given, or refused."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from cases import CASES
from oracle import Prompt, Sieve, prompt
from torch import Tensor
from zoo import Case, known

import foveate
from foveate import FastV
from foveate.errors import InputError
from foveate.families import family_of

KNOWN = [case for case in CASES if case.typed and known(case.model_type) and not case.brief]
FIRST, SECOND = 0, 1


@pytest.fixture(params=KNOWN, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


def conversation(case: Case) -> tuple[Prompt, Prompt]:
    """The first turn, and both turns as one prompt."""
    turn = [3, case.image(FIRST), 5]
    return prompt(case, [turn]), prompt(case, [[*turn, 2, case.image(SECOND), 4]])


def new_tokens(first: Prompt, both: Prompt, case: Case) -> dict[str, Tensor]:
    """The second turn alone, as the processor makes it."""
    width = first.inputs["input_ids"].shape[1]
    pictures = case.join([[case.image(SECOND)]])
    rows = {name: both.inputs[name][:, width:] for name in ("input_ids", "mm_token_type_ids")}
    return {**rows, "attention_mask": both.inputs["attention_mask"], **pictures}


def positions(model: Any, both: Prompt) -> Tensor:
    """Those of the whole conversation (kinds, 1, s)."""
    backbone: Any = family_of(model).backbone(model)
    taken = inspect.signature(backbone.get_rope_index).parameters
    found, _ = backbone.get_rope_index(**{name: value for name, value in both.inputs.items() if name in taken})
    return found


def ran(model: Any) -> list[int]:
    calls: list[int] = []
    family_of(model).layers(model)[0].register_forward_hook(lambda *_: calls.append(1))
    return calls


@torch.no_grad()
def test_by_the_positions_of_the_whole_conversation(case: Case) -> None:
    model, (first, both) = case.build(), conversation(case)
    width = first.inputs["input_ids"].shape[1]
    expected = model(**both.inputs).logits[:, width:]
    given = positions(model, both)[..., width:]
    with foveate.compress(model, FastV(keep=1.0)):
        cache = model(**first.inputs).past_key_values
        got = model(**new_tokens(first, both, case), position_ids=given, past_key_values=cache).logits
        step = model(input_ids=torch.tensor([[9]]), past_key_values=cache).logits
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    longer = {**both.inputs, "input_ids": torch.cat([both.inputs["input_ids"], torch.tensor([[9]])], 1)}
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    longer["mm_token_type_ids"] = torch.cat([both.inputs["mm_token_type_ids"], torch.tensor([[0]])], 1)
    torch.testing.assert_close(step[:, -1], model(**longer).logits[:, -1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("method", [FastV(keep=1.0), Sieve(layer=2)], ids=["all", "some"])
def test_new_ids_alone_are_refused_because_the_model_gives_them_positions_of_text(case: Case, method: foveate.Method) -> None:
    model, (first, both) = case.build(), conversation(case)
    with foveate.compress(model, method):
        cache = model(**first.inputs).past_key_values
        calls = ran(model)
        with pytest.raises(InputError, match="position_ids"):
            model(**new_tokens(first, both, case), past_key_values=cache)
        assert not calls


@torch.no_grad()
def test_positions_of_the_new_tokens_alone_are_refused(case: Case) -> None:
    model, (first, both) = case.build(), conversation(case)
    new = new_tokens(first, both, case)
    alone = positions(model, Prompt({**new, "attention_mask": torch.ones_like(new["input_ids"])}, [], []))
    with foveate.compress(model, Sieve(layer=2)):
        cache = model(**first.inputs).past_key_values
        with pytest.raises(InputError, match=r"begin at 0, but the compressed cache stands for positions up to \d+"):
            model(**new, position_ids=alone, past_key_values=cache)
