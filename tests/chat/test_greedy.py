"""Greedy answers, and logits that are not numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import TOKENS, tiny_llava

from foveate.chat.greedy import generate_greedily
from foveate.errors import InputError


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava()


def prompt(model: Any) -> dict[str, Any]:
    ids = torch.tensor([[1, 2, *[model.config.image_token_id] * TOKENS, 3, 4]])
    side = model.config.vision_config.image_size
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(1, 3, side, side)}


def test_a_checkpoint_s_own_sampling_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = prompt(model)
    expected = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    monkeypatch.setattr(model.generation_config, "do_sample", True)
    monkeypatch.setattr(model.generation_config, "temperature", 5.0)
    assert all(torch.equal(generate_greedily(model, inputs, 6, 0), expected) for _ in range(3))


@pytest.mark.parametrize("step", [0, 3, 5])
@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_logits_that_are_not_numbers_are_refused_and_their_step_is_named(model: Any, step: int, options: dict[str, Any]) -> None:
    inputs, calls = prompt(model), []

    def damage(module: Any, args: Any, output: Any) -> None:
        if len(calls) == step:
            output.logits[..., -1, 7] = torch.nan
        calls.append(1)

    hook = model.register_forward_hook(damage)
    try:
        with pytest.raises(
            InputError, match=rf"logits after {inputs['input_ids'].shape[1] + step} tokens are not numbers \(NaN in float32\)"
        ):
            generate_greedily(model, inputs, 6, 0, **options)
    finally:
        hook.remove()
