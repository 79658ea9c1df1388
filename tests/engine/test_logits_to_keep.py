"""`logits_to_keep` means columns of the input, as an int and as a tensor, under left and right padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import SPARSE, Fixed, batch, prompt, tiny_llava
from torch import Tensor

import foveate
from foveate import FastV, TokenCarve
from foveate.errors import InputError

ROWS = [prompt(3, "image", 9), prompt(2, "image", 5, seed=1)]
"""28 and 23 columns, the image before the last 9 and 5."""


def columns_of(asked: Any, width: int) -> Tensor:
    return torch.arange(width)[slice(-asked, None) if isinstance(asked, int) else asked]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(
    "asked",
    [2, 5, torch.tensor([27, 25, 26]), torch.tensor([-1, -4]), torch.tensor([1, 27]), [26, 27], slice(-3, None), range(25, 28)],
    ids=repr,
)
def test_a_kept_image_changes_no_column(padding: str, asked: Any) -> None:
    model, inputs = tiny_llava(), batch(ROWS, padding=padding)
    columns = columns_of(asked, 28)
    real = inputs["attention_mask"][:, columns].bool()
    with torch.no_grad():
        expected = model(**inputs).logits[:, columns]
        with foveate.compress(model, TokenCarve(keep=1.0)):
            got = model(**inputs, logits_to_keep=asked).logits
    assert got.shape == expected.shape
    torch.testing.assert_close(got[real], expected[real], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("asked", [3, torch.tensor([26, 24])], ids=repr)
def test_columns_of_a_compressed_row_are_those_that_remain(padding: str, asked: int | Tensor) -> None:
    model, inputs = tiny_llava(), batch(ROWS, padding=padding)
    with torch.no_grad(), foveate.compress(model, Fixed(targets=(SPARSE,))) as handle:
        every = model(**inputs).logits
        remaining = torch.tensor(handle.report.columns)
        got = model(**inputs, logits_to_keep=asked).logits
    for row, ids in enumerate(inputs["input_ids"]):
        for place, column in enumerate(columns_of(asked, len(ids)).tolist()):
            if inputs["attention_mask"][row, column]:
                (own,) = (remaining[row] == column).nonzero().flatten()
                assert torch.equal(got[row, place], every[row, own])
    assert bool(got.isfinite().all())


@pytest.mark.parametrize("padding", ["left", "right"])
def test_log_probabilities_of_completions_as_a_policy_trainer_takes_them(padding: str) -> None:
    """The last completion tokens and the one before them; what padding says is masked by the trainer."""
    model, inputs, completion = tiny_llava(), batch(ROWS, padding=padding), 4
    ids, mask = inputs["input_ids"], inputs["attention_mask"][:, -completion:].bool()

    def log_probabilities() -> Tensor:
        logits = model(**inputs, logits_to_keep=completion + 1).logits[:, :-1][:, -completion:]
        return logits.log_softmax(-1).gather(2, ids[:, -completion:, None])[..., 0]

    with torch.no_grad():
        expected = log_probabilities()
        with foveate.compress(model, FastV(keep=1.0)):
            got = log_probabilities()
    torch.testing.assert_close(got[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("asked", [26, torch.tensor([27, 7])], ids=repr)
def test_a_visual_column_is_refused_before_any_layer_runs(asked: Any) -> None:
    model, inputs = tiny_llava(), batch(ROWS)
    ran: list[int] = []
    hook = model.model.language_model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    with foveate.compress(model, FastV(keep=4)), pytest.raises(InputError, match="logits_to_keep asks for input column"):
        model(**inputs, logits_to_keep=asked)
    hook.remove()
    assert not ran


@pytest.mark.parametrize("asked", [0, 1, 3, torch.tensor([2, 5])], ids=repr)
def test_text_and_new_tokens_are_untouched(asked: Any) -> None:
    model, text, inputs = tiny_llava(), batch([prompt(6), prompt(4, seed=1)]), batch(ROWS)
    new = torch.tensor([[7, 8, 9, 10, 11, 12]] * 2)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(new)], 1)
    with torch.no_grad():
        expected = model(**text, logits_to_keep=asked).logits
        with foveate.compress(model, FastV(keep=4)):
            assert torch.equal(model(**text, logits_to_keep=asked).logits, expected)
            caches = [model(**inputs).past_key_values for _ in range(2)]
            every = model(input_ids=new, attention_mask=mask, past_key_values=caches[0]).logits
            some = model(input_ids=new, attention_mask=mask, past_key_values=caches[1], logits_to_keep=asked).logits
    torch.testing.assert_close(some, every[:, columns_of(asked, 6)])


def test_the_next_call_takes_all_that_remain_again() -> None:
    model, inputs = tiny_llava(), batch(ROWS)
    with torch.no_grad(), foveate.compress(model, FastV(keep=4)):
        expected = model(**inputs).logits
        with pytest.raises(InputError):
            model(**inputs, logits_to_keep=26)
        model(**inputs, logits_to_keep=3)
        assert torch.equal(model(**inputs).logits, expected)
        assert model.model(**inputs).last_hidden_state.shape[1] == expected.shape[1]
