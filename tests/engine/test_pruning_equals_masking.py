"""What compression means: the full model that does not see the removed tokens, held to the same logits."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny import SPARSE, TOKENS, Fixed, batch, keep_target, prompt, reference_logits, tiny_llava
from torch import Tensor
from transformers import MistralConfig

import foveate
from foveate import FastV, FirstLayerAttention, Method, Plan, TokenCarve, TowerAttention
from foveate.compression import Handle

MERGING = tuple(1 if i in (0, 2) else 12 if i == 15 else t for i, t in enumerate(SPARSE))
ONE = keep_target([3])
ALL = keep_target(range(TOKENS))
STEPS = 32

PROMPTS = {
    "one image": [prompt(3, "image", 5)],
    "two images, one behind the other": [prompt(3, "image", "image", 5)],
    "different lengths": [prompt(3, "image", 5), prompt(2, "image", 9, seed=1)],
    "one, two and no image": [prompt(3, "image", 5), prompt(2, "image", 9, "image", 2, seed=1), prompt(7)],
}


def plans_per_row(handle: Handle, rows: int) -> list[list[Tensor]]:
    found: list[list[Tensor]] = [[] for _ in range(rows)]
    for image in handle.report.images:
        found[image.row].append(image.plan.target)
    return found


def with_new_tokens(inputs: dict[str, Tensor], sequences: Tensor) -> Tensor:
    rows, new = sequences.shape[0], sequences.shape[1] - inputs["input_ids"].shape[1]
    return torch.cat([inputs["attention_mask"], torch.ones(rows, new, dtype=torch.long)], dim=1)


def truth(model, inputs, sequences, mask, targets, layer, trim) -> Tensor:  # noqa: ANN001
    width = inputs["input_ids"].shape[1]
    return reference_logits(model, sequences, mask, inputs.get("pixel_values"), width, targets, layer, trim=trim)


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "untrimmed"])
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("rows", PROMPTS.values(), ids=PROMPTS.keys())
def test_prefill_and_32_new_tokens_see_only_what_stayed(rows: list[list[int]], padding: str, layer: int, trim: bool) -> None:
    model, inputs = tiny_llava(), batch(rows, padding=padding)
    width = inputs["input_ids"].shape[1]
    with foveate.compress(model, Fixed(layer=layer, targets=(MERGING, ONE, ALL)), trim_early_layers=trim) as handle:
        out = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True)
    mask = with_new_tokens(inputs, out.sequences)
    expected = truth(model, inputs, out.sequences, mask, plans_per_row(handle, len(rows)), layer, trim)
    last = (inputs["attention_mask"] * torch.arange(1, width + 1)).argmax(1)
    torch.testing.assert_close(out.logits[0], expected[torch.arange(len(rows)), last], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(out.logits[1:], 1), expected[:, width:-1], atol=1e-4, rtol=1e-4)


FOLLOWING = [
    FastV(keep=1.0, mass=0.5),
    FastV(keep=12, layer=1, mass=0.7, at_least=3),
    TokenCarve(keep=1.0, mass=0.5),
    TokenCarve(keep=0.9, layer=1, mass=0.7, attention_weight=1.0),
    FirstLayerAttention(keep=1.0, mass=0.6),
    TowerAttention(keep=1.0, mass=0.6),
]
"""Budgets that follow the images, so that those of one batch differ."""


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "untrimmed"])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("method", FOLLOWING, ids=str)
def test_a_prefill_and_two_turns_of_unequal_budgets_see_only_what_stayed(method: Method, padding: str, trim: bool) -> None:
    model, inputs = tiny_llava(), batch(PROMPTS["one, two and no image"], padding=padding)
    rows, width = inputs["input_ids"].shape
    question = torch.randint(2, 80, (rows, 5), generator=torch.Generator().manual_seed(5))
    with foveate.compress(model, method, trim_early_layers=trim) as handle:
        first = model.generate(**inputs, max_new_tokens=6, do_sample=False, output_logits=True, return_dict_in_generate=True)
        targets = plans_per_row(handle, rows)
        mask = with_new_tokens(inputs, first.sequences)
        out = second_turn(model, first.sequences, mask, question, first.past_key_values, full_ids=True)
    assert len({Plan(target).tokens_after for row in targets for target in row}) > 1
    expected = truth(model, inputs, first.sequences, mask, targets, method.layer, trim)
    last = (inputs["attention_mask"] * torch.arange(1, width + 1)).argmax(1)
    torch.testing.assert_close(first.logits[0], expected[torch.arange(rows), last], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(torch.stack(first.logits[1:], 1), expected[:, width:-1], atol=1e-4, rtol=1e-4)
    ids = torch.cat([first.sequences, question, out.sequences[:, -8:]], dim=1)
    whole = torch.cat([mask, torch.ones(rows, 13, dtype=torch.long)], dim=1)
    expected = truth(model, inputs, ids, whole, targets, method.layer, trim)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, -9:-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("key_heads", [1, 4])
def test_attention_kernels_and_head_groups_agree(attention: str, key_heads: int) -> None:
    model, inputs = tiny_llava(attention=attention, key_heads=key_heads), batch(PROMPTS["different lengths"])
    with foveate.compress(model, Fixed(targets=(MERGING, ONE))) as handle:
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True)
    mask = with_new_tokens(inputs, out.sequences)
    expected = truth(model, inputs, out.sequences, mask, plans_per_row(handle, 2), 2, True)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, inputs["input_ids"].shape[1] - 1 : -1], atol=1e-4, rtol=1e-4)


def test_a_mistral_decoder_without_a_window() -> None:
    model = tiny_llava(decoder=MistralConfig, sliding_window=None)
    inputs = batch(PROMPTS["different lengths"])
    with foveate.compress(model, Fixed(targets=(MERGING, ONE))) as handle:
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False, output_logits=True, return_dict_in_generate=True)
    expected = truth(model, inputs, out.sequences, with_new_tokens(inputs, out.sequences), plans_per_row(handle, 2), 2, True)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, inputs["input_ids"].shape[1] - 1 : -1], atol=1e-4, rtol=1e-4)


def test_more_than_500_new_tokens() -> None:
    model, inputs = tiny_llava(), batch(PROMPTS["one image"])
    with foveate.compress(model, Fixed(targets=(MERGING,))) as handle:
        out = model.generate(**inputs, max_new_tokens=520, do_sample=False, output_logits=True, return_dict_in_generate=True)
    expected = truth(model, inputs, out.sequences, with_new_tokens(inputs, out.sequences), plans_per_row(handle, 1), 2, True)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, inputs["input_ids"].shape[1] - 1 : -1], atol=2e-4, rtol=2e-4)


def second_turn(model, sequences: Tensor, mask: Tensor, new: Tensor, cache, *, full_ids: bool) -> torch.Tensor:  # noqa: ANN001
    ids = torch.cat([sequences, new], dim=1) if full_ids else new
    mask = torch.cat([mask, torch.ones_like(new)], dim=1)
    return model.generate(
        input_ids=ids,
        attention_mask=mask,
        past_key_values=cache,
        max_new_tokens=8,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "untrimmed"])
@pytest.mark.parametrize("full_ids", [True, False], ids=["full ids", "new ids only"])
@pytest.mark.parametrize("copied", [True, False], ids=["deep copy", "same cache"])
@pytest.mark.parametrize("name", ["one image", "different lengths", "one, two and no image"])
def test_second_turn_on_the_cache_after_another_generation(name: str, copied: bool, full_ids: bool, trim: bool) -> None:
    model, inputs = tiny_llava(), batch(PROMPTS[name])
    rows, width = inputs["input_ids"].shape
    question = torch.randint(2, 80, (rows, 5), generator=torch.Generator().manual_seed(5))
    with foveate.compress(model, Fixed(targets=(MERGING, ONE, ALL)), trim_early_layers=trim) as handle:
        first = model.generate(**inputs, max_new_tokens=6, do_sample=False, return_dict_in_generate=True)
        targets = plans_per_row(handle, rows)
        model.generate(**batch([prompt(1, "image", 4, seed=9)], seed=9), max_new_tokens=3, do_sample=False)
        cache = copy.deepcopy(first.past_key_values) if copied else first.past_key_values
        mask = with_new_tokens(inputs, first.sequences)
        # The last generated token is not in the cache yet: with new ids only it belongs to them.
        known, new = (
            (first.sequences, question) if full_ids else (first.sequences[:, :-1], torch.cat([first.sequences[:, -1:], question], 1))
        )
        out = second_turn(model, known, mask[:, : known.shape[1]], new, cache, full_ids=full_ids)
    ids = torch.cat([first.sequences, question, out.sequences[:, -8:]], dim=1)
    full_mask = torch.cat([mask, torch.ones(rows, 13, dtype=torch.long)], dim=1)
    expected = reference_logits(model, ids, full_mask, inputs["pixel_values"], width, targets, 2, trim=trim)
    torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, -9:-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "untrimmed"])
def test_beams_share_one_plan_and_follow_their_cache(trim: bool) -> None:
    model, inputs = tiny_llava(), batch(PROMPTS["different lengths"])
    options = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    with foveate.compress(model, Fixed(targets=(MERGING, ONE)), trim_early_layers=trim) as handle:
        out = model.generate(**inputs, **options)
        assert [image.plan.to_list() for image in handle.report.images] == [list(MERGING)] * 3 + [list(ONE)] * 3
        single = [
            model.generate(**batch([row], seed=0) | {"pixel_values": inputs["pixel_values"][index : index + 1]}, **options)
            for index, row in enumerate(PROMPTS["different lengths"][:1])
        ]
    torch.testing.assert_close(out.sequences_scores[0], single[0].sequences_scores[0], atol=1e-4, rtol=1e-4)
    ids = out.sequences
    mask = with_new_tokens(inputs, ids)
    targets = [[torch.tensor(MERGING)], [torch.tensor(ONE)]]
    width = inputs["input_ids"].shape[1]
    logits = reference_logits(model, ids, mask, inputs["pixel_values"], width, targets, 2, trim=trim)
    scores = logits[:, width - 1 : -1].log_softmax(-1).gather(2, ids[:, width:, None]).sum((1, 2)) / 8
    torch.testing.assert_close(out.sequences_scores, scores, atol=1e-3, rtol=1e-3)


def test_a_schedule_cuts_twice_and_composes_its_plans() -> None:
    model, inputs = tiny_llava(), batch(PROMPTS["different lengths"])
    again = tuple(foveate.Plan.keep([0, 2], 5).to_list())
    for trim in (True, False):
        schedule = [Fixed(layer=1, targets=(SPARSE,)), Fixed(layer=3, targets=(again,))]
        with foveate.compress(model, schedule, trim_early_layers=trim) as handle:
            out = model.generate(**inputs, max_new_tokens=12, do_sample=False, output_logits=True, return_dict_in_generate=True)
            lengths = [layer.keys.shape[2] for layer in out.past_key_values.layers]
        image = handle.report.images[0]
        assert image.plan.kept.tolist() == [1, 5]
        assert [stage.layer for stage in image.stages] == [1, 3]
        text, new = 11, 11
        assert lengths == ([text + 2 + new] * 4 if trim else [text + 18 - 2 + new, text + 5 + new, text + 5 + new, text + 2 + new])
        if trim:
            continue
        expected = two_cut_reference(model, inputs, out.sequences)
        torch.testing.assert_close(torch.stack(out.logits, 1), expected[:, inputs["input_ids"].shape[1] - 1 : -1], atol=1e-4, rtol=1e-4)


def two_cut_reference(model, inputs: dict[str, Tensor], ids: Tensor) -> Tensor:  # noqa: ANN001
    """The untrimmed schedule of the test above, as masks alone."""
    length = ids.shape[1]
    mask = with_new_tokens(inputs, ids)
    order = torch.arange(length)
    seen = (order[None] <= order[:, None])[None] & mask.bool()[:, None]
    visual = ids == 90
    place = visual.long().cumsum(1) - 1
    hide = {
        layer: visual & ~torch.isin(place, torch.tensor(kept))
        for layer, kept in ((1, [1, 4, 5, 9, 12]), (2, [1, 4, 5, 9, 12]), (3, [1, 5]))
    }

    def before(index: int):  # noqa: ANN202
        def hook(module, args, kwargs):  # noqa: ANN001, ANN202
            visible = seen & ~hide[index][:, None] if index in hide else seen
            visible = visible | torch.eye(length, dtype=torch.bool)
            kwargs["attention_mask"] = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[:, None]
            return args, kwargs

        return hook

    layers = model.model.language_model.layers
    hooks = [layer.register_forward_pre_hook(before(index), with_kwargs=True) for index, layer in enumerate(layers)]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = model(
            input_ids=ids, attention_mask=mask, position_ids=positions, pixel_values=inputs["pixel_values"], use_cache=False
        ).logits
    for hook in hooks:
        hook.remove()
    return logits


@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "untrimmed"])
def test_a_second_image_on_a_compressed_cache(trim: bool) -> None:
    model = tiny_llava()
    first, then = batch([prompt(3, "image", 5)]), batch([prompt(2, "image", 4, seed=3)], seed=3)
    with foveate.compress(model, Fixed(targets=(MERGING,)), trim_early_layers=trim), torch.no_grad():
        one = model(**first)
        mask = torch.cat([first["attention_mask"], then["attention_mask"]], 1)
        two = model(
            input_ids=then["input_ids"], pixel_values=then["pixel_values"], attention_mask=mask, past_key_values=one.past_key_values
        )
        three = model(input_ids=torch.tensor([[7]]), past_key_values=two.past_key_values)
    assert two.past_key_values.get_seq_length() == 24 + 22 + 1
    layers = model.model.language_model.layers
    expected = masked_two_images(model, layers, first, then, trim)
    torch.testing.assert_close(three.logits[:, -1], expected, atol=1e-4, rtol=1e-4)


def masked_two_images(model, layers, first, then, trim: bool) -> Tensor:  # noqa: ANN001
    """Last logits of [first turn, second turn, one token] where each turn's image is merged at layer 2 and then unseen."""
    ids = torch.cat([first["input_ids"], then["input_ids"], torch.tensor([[7]])], 1)
    length, turns = ids.shape[1], [(0, 24), (24, 46)]
    order, plan = torch.arange(length), foveate.Plan(torch.tensor(MERGING))
    removed, merges = torch.zeros(length, dtype=torch.bool), []
    for start, end in turns:
        columns = (ids[0, start:end] == 90).nonzero().squeeze(1) + start
        removed[columns[plan.merged]] = removed[columns[plan.dropped]] = True
        merges.append(columns)
    seen = order[None] <= order[:, None]
    late = seen & ~removed[None]
    early = seen.clone()
    for _, end in turns:
        if trim:
            early[end:] &= ~(removed & (order < end))[None]

    def before(index: int):  # noqa: ANN202
        def hook(module, args, kwargs):  # noqa: ANN001, ANN202
            visible = (early if index < 2 else late) | torch.eye(length, dtype=torch.bool)
            kwargs["attention_mask"] = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[None, None]
            states = args[0].clone()
            if index == 2:
                for columns in merges:
                    states[0, columns[plan.kept]] = plan.merge(states[0, columns])
            return (states,), kwargs

        return hook

    hooks = [layer.register_forward_pre_hook(before(index), with_kwargs=True) for index, layer in enumerate(layers)]
    pictures = torch.cat([first["pixel_values"], then["pixel_values"]])
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pictures, use_cache=False).logits[:, -1]
    for hook in hooks:
        hook.remove()
    return logits
