"""Methods of several stages inside a model: held to the logits of the full model under one mask per layer, and to its own attention."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tiny import IMAGE, TOKENS, batch, generate, pixels, prompt, tiny_llava
from torch import Tensor

import foveate
from foveate import DART, Method, Plan, PyramidDrop, SparseVLM, V2Drop, View
from foveate.report import ImageReport

METHODS = [
    PyramidDrop(keep=3),
    PyramidDrop(keep=2, at=(1, 3, 4)),
    SparseVLM(keep=3, at=(2, 5)),
    V2Drop(keep=0.2),
    [DART(keep=9), V2Drop(keep=3, at=(4, 6))],
]
ROWS = [prompt(3, "image", 5), prompt(2, "image", 9, "image", 2, seed=1)]


def truth(model: Any, inputs: dict[str, Tensor], images: list[ImageReport]) -> Tensor:
    """Logits of the full model whose layers see no token that an earlier stage took out, and means where it merged."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    rows, length = ids.shape
    gone_before = torch.full((rows, length), 10**6)
    merges: list[tuple[int, int, Tensor, Plan]] = []
    for row in range(rows):
        visual = (ids[row] == IMAGE).nonzero().squeeze(1)
        for image in (image for image in images if image.row == row):
            present, visual = visual[:TOKENS], visual[TOKENS:]
            for stage in image.stages:
                stays = stage.plan.kept
                left = torch.ones(len(present), dtype=torch.bool)
                left[stays] = False
                gone_before[row, present[left]] = stage.layer
                merges.append((stage.layer, row, present, stage.plan))
                present = present[stays]
    order = torch.arange(length)
    seen = (order[None, :] <= order[:, None])[None] & mask[:, None, :]

    def before(index: int) -> Callable[..., Any]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            visible = (seen & (gone_before > index)[:, None, :]) | torch.eye(length, dtype=torch.bool)
            kwargs["attention_mask"] = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
            states = args[0].clone()
            for layer, row, present, plan in merges:
                if layer == index:
                    states[row, present[plan.kept]] = plan.merge(args[0][row, present])
            return (states, *args[1:]), kwargs

        return hook

    layers = model.model.language_model.layers
    hooks = [layer.register_forward_pre_hook(before(index), with_kwargs=True) for index, layer in enumerate(layers)]
    try:
        with torch.no_grad():
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)
            return model(**inputs, position_ids=positions, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "untrimmed"])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_prefill_in_stages_equals_masking_layer_by_layer(method: Method | list[Method], padding: str, trim: bool) -> None:
    model, inputs = tiny_llava(layers=8), batch(ROWS, padding=padding)
    with foveate.compress(model, method, trim_early_layers=trim) as handle, torch.no_grad():
        logits = model(**inputs).logits
    report = handle.report
    assert all(len(image.stages) > 1 for image in report.images)
    expected = truth(model, inputs, list(report.images))
    for row, columns in enumerate(report.columns):
        column = torch.as_tensor(columns)
        real = column >= 0
        torch.testing.assert_close(logits[row, real], expected[row, column[real]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_answers_after_stages_equal_those_of_rows_alone(method: Method | list[Method]) -> None:
    model, inputs = tiny_llava(layers=8), batch(ROWS)
    with foveate.compress(model, method):
        together = generate(model, inputs)
        alone = generate(model, batch(ROWS[:1]) | {"pixel_values": inputs["pixel_values"][:1]})
    width = inputs["input_ids"].shape[1]
    assert together.sequences[0, width:].tolist() == alone.sequences[0, len(ROWS[0]) :].tolist()
    torch.testing.assert_close(torch.stack(together.logits)[:, :1], torch.stack(alone.logits), atol=1e-4, rtol=1e-4)


@dataclass(frozen=True)
class Spy(Method):
    """Keeps every token, and what it was shown."""

    keep: int | float = 1.0
    seen: list[View] = field(default_factory=list)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"next_attention", "keys", "question_keys", "earlier_states", "question_embeddings"})

    def plan(self, view: View) -> Plan:
        self.seen.append(view)
        return Plan.identity(len(view))


@pytest.mark.parametrize("layer", [1, 3])
def test_a_second_turn_reads_what_the_whole_conversation_gives(layer: int) -> None:
    model = tiny_llava(layers=4, attention="eager")
    pictures, turns = pixels(2), [torch.tensor([prompt(3, "image", 5)]), torch.tensor([prompt(2, "image", 4, seed=1)])]
    spy = Spy(layer=layer)
    with foveate.compress(model, spy), torch.no_grad():
        cache = model(input_ids=turns[0], pixel_values=pictures[:1], use_cache=True).past_key_values
        model(input_ids=turns[1], pixel_values=pictures[1:], past_key_values=copy.deepcopy(cache))
    whole = torch.cat(turns, dim=1)
    entered: list[Tensor] = []
    hook = model.model.language_model.layers[layer - 1].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad():
        full = model(input_ids=whole, pixel_values=pictures, output_attentions=True, use_cache=True)
    hook.remove()
    place = (whole[0] == IMAGE).nonzero().squeeze(1)[TOKENS:]
    view, keys = spy.seen[1], full.past_key_values.layers[layer - 1].keys[0]
    close = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(view.signal("next_attention"), full.attentions[layer][0, :, -1, place].mean(0), **close)
    torch.testing.assert_close(view.signal("keys"), keys[:, place].transpose(0, 1), **close)
    torch.testing.assert_close(view.signal("question_keys"), keys[:, -4:].transpose(0, 1), **close)
    torch.testing.assert_close(view.signal("earlier_states"), entered[0][0, place], **close)


def test_looking_ahead_runs_no_layer_twice_and_fills_no_cache() -> None:
    model, ran = tiny_llava(layers=8), []
    hooks = [
        layer.mlp.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, layer in enumerate(model.model.language_model.layers)
    ]
    with foveate.compress(model, PyramidDrop(keep=2)), torch.no_grad():
        out = model(**batch([prompt(3, "image", 5)]))
    for hook in hooks:
        hook.remove()
    assert ran == list(range(8))
    assert {layer.keys.shape[2] for layer in out.past_key_values.layers} == {3 + 2 + 5}
    assert all("foveate_probes" not in vars(module.config) for module in model.modules() if hasattr(module, "config"))
