"""The states read for kept tokens are those that the model computed for them."""

from __future__ import annotations

import pytest
import torch
from tiny import IMAGE, TOKENS, Fixed, batch, keep_target, prompt, tiny_llava

import foveate
from foveate.errors import LayerError
from foveate.measure.analysis.kept_states import KeptStates

CUT = 2
KEPT = ((1, 4, 5, 11), (0, 2, 9, 15))


def rows() -> dict[str, torch.Tensor]:
    """Two prompts of different lengths, padded."""
    return batch([prompt(3, "image", 6), prompt(2, "image", 2, seed=1)])


def found(states: KeptStates, report: foveate.Report | None) -> dict[tuple[int, str, int], torch.Tensor]:
    return {(row, source, layer): values for row, source, layer, values in states.read(report)}


def visual(states: torch.Tensor, inputs: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    return states[row, inputs["input_ids"][row] == IMAGE]


@torch.no_grad()
def test_without_compression_all_visual_tokens_are_read() -> None:
    model, inputs = tiny_llava(), rows()
    with KeptStates(model, [0, 3]) as states:
        hidden = model(**inputs, output_hidden_states=True).hidden_states
        read = found(states, None)
    for row in range(2):
        for layer in (0, 3):
            torch.testing.assert_close(read[row, "hidden_states", layer], visual(hidden[layer], inputs, row))
            assert read[row, "attention_output", layer].shape == (TOKENS, 32)


@torch.no_grad()
def test_before_the_cut_the_rows_of_kept_tokens_are_read_among_all() -> None:
    model, inputs = tiny_llava(), rows()
    hidden = model(**inputs, output_hidden_states=True).hidden_states
    method = Fixed(layer=CUT, targets=tuple(keep_target(kept) for kept in KEPT))
    with foveate.compress(model, method) as handle, KeptStates(model, [1, CUT]) as states:
        model(**inputs)
        read = found(states, handle.report)
    for row, kept in enumerate(KEPT):
        for layer in (1, CUT):
            torch.testing.assert_close(read[row, "hidden_states", layer], visual(hidden[layer], inputs, row)[list(kept)])


@torch.no_grad()
def test_merged_tokens_are_read_as_merged_after_the_cut() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 6)])
    hidden = model(**inputs, output_hidden_states=True).hidden_states
    target = list(keep_target([2, 7]))
    target[3] = 2
    with foveate.compress(model, Fixed(layer=CUT, targets=(tuple(target),))) as handle, KeptStates(model, [1, CUT, 3]) as states:
        model.generate(**inputs, max_new_tokens=3, do_sample=False)
        read = found(states, handle.report)
    whole = visual(hidden[CUT], inputs, 0)
    torch.testing.assert_close(read[0, "hidden_states", CUT], torch.stack([whole[[2, 3]].mean(0), whole[7]]))
    torch.testing.assert_close(read[0, "hidden_states", 1], visual(hidden[1], inputs, 0)[[2, 7]])
    assert read[0, "attention_output", 3].shape == (2, 32)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_llava()
    with KeptStates(model, [1]):
        pass
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("layers", [[4], [-1], [], [1, 1]])
def test_layers_that_do_not_exist_are_refused(layers: list[int]) -> None:
    with pytest.raises(LayerError, match="layers"):
        KeptStates(tiny_llava(), layers)
