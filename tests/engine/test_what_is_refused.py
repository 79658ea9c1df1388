"""What the handle refuses, and the caches that it leaves behind."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from tiny import IMAGE, METHODS, SPARSE, Fixed, batch, keep_target, prompt, tiny_llava
from transformers import Cache, MistralConfig
from transformers.cache_utils import StaticSlidingWindowLayer

import foveate
from foveate import FastV, Random, TokenCarve
from foveate.errors import (
    BudgetError,
    CacheError,
    HandleError,
    InputError,
    LayerError,
    OptionError,
    SignalError,
    UnsupportedError,
    UnsupportedModelError,
)


@pytest.mark.parametrize("keep", [0, -3, math.nan, 1.5, 0.0, -0.1, math.inf, True, "128", None])
def test_impossible_budgets_are_refused_at_once(keep: Any) -> None:
    with pytest.raises(BudgetError, match="keep="):
        foveate.compress(tiny_llava(), TokenCarve(keep=keep))


@pytest.mark.parametrize("clamp", ["no", 1, None])
def test_a_clamp_that_is_neither_true_nor_false_is_refused_at_once(clamp: Any) -> None:
    with pytest.raises(OptionError, match=rf"clamp={clamp!r} must be True or False"):
        FastV(keep=4, clamp=clamp)


def test_more_tokens_than_there_are_is_refused_before_any_layer_runs() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    ran: list[int] = []
    hook = model.model.language_model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    for method in METHODS:
        wanted = type(method)(keep=17)
        with foveate.compress(model, wanted), pytest.raises(BudgetError, match=r"17.*16.*clamp=True"):
            model(**inputs)
    hook.remove()
    assert not ran
    for options in ({"method": FastV(keep=17, clamp=True)}, {"method": FastV(keep=17), "clamp": True}):
        with foveate.compress(model, **options) as handle:
            model(**inputs)
            assert handle.report.tokens_after == 16


def test_a_later_method_of_a_schedule_cannot_ask_for_more_than_the_first_left() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    with foveate.compress(model, [FastV(keep=4, layer=1), FastV(keep=8, layer=3)]), pytest.raises(BudgetError, match=r"keep=8.*4"):
        model(**inputs)


@pytest.mark.parametrize("layer", [4, 99])
def test_a_layer_that_the_model_has_not(layer: int) -> None:
    with pytest.raises(LayerError, match=rf"layer={layer}.*0\.\.3"):
        foveate.compress(tiny_llava(), Random(keep=4, layer=layer))


@pytest.mark.parametrize("layer", [-1, 1.5, "2"])
def test_a_layer_that_no_model_has(layer: Any) -> None:
    with pytest.raises(LayerError, match="layer="):
        Random(keep=4, layer=layer)


def test_schedules_must_go_up() -> None:
    with pytest.raises(LayerError, match="increase"):
        foveate.compress(tiny_llava(), [FastV(keep=8, layer=2), FastV(keep=4, layer=2)])
    for nothing in ([], [1], None):
        with pytest.raises(TypeError):
            foveate.compress(tiny_llava(), nothing)


def test_there_is_no_attention_output_before_the_first_layer() -> None:
    with pytest.raises(SignalError, match=r"attention_output.*layer=0"):
        foveate.compress(tiny_llava(), TokenCarve(keep=4, layer=0, source="attention_output"))
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    for method in (FastV(keep=4, layer=0), TokenCarve(keep=4, layer=0)):
        with foveate.compress(model, method) as handle:
            model(**inputs)
            assert handle.report.tokens_after == 4


def test_unknown_families_are_named_with_the_way_out() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vocab_size=9))
    with pytest.raises(UnsupportedModelError, match=r"llama.*llava.*adding_a_family"):
        foveate.compress(model, FastV(keep=4))


def test_decoders_and_towers_that_are_not_supported_say_why() -> None:
    windowed = tiny_llava(decoder=MistralConfig, sliding_window=8)
    with pytest.raises(UnsupportedModelError, match="sliding_window=8"):
        foveate.compress(windowed, FastV(keep=4))
    other = tiny_llava()
    other.config.vision_config.model_type = "dinov2"
    with pytest.raises(UnsupportedModelError, match=r"dinov2.*clip_vision_model"):
        foveate.compress(other, FastV(keep=4))


def test_two_handles_on_one_model() -> None:
    model = tiny_llava()
    with foveate.compress(model, FastV(keep=4)):
        with pytest.raises(HandleError, match="remove"):
            foveate.compress(model, Random(keep=4))
    foveate.compress(model, Random(keep=4)).remove()


@pytest.mark.parametrize(
    "options",
    [{"prefill_chunk_size": 8}, {"prompt_lookup_num_tokens": 3}, {"assistant_model": object()}],
    ids=lambda options: next(iter(options)),
)
def test_ways_of_generating_that_would_go_wrong(options: dict[str, Any]) -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    with foveate.compress(model, FastV(keep=4)), pytest.raises(UnsupportedError, match=next(iter(options))):
        model.generate(**inputs, max_new_tokens=2, **options)


def test_chunked_prefill_in_the_models_own_settings() -> None:
    model = tiny_llava()
    model.generation_config.prefill_chunk_size = 8
    with pytest.raises(UnsupportedError, match="prefill_chunk_size=8"):
        foveate.compress(model, FastV(keep=4))
    assert "generate" not in model.__dict__
    model.generation_config.prefill_chunk_size = None
    with foveate.compress(model, FastV(keep=4)):
        model.generation_config.prefill_chunk_size = 8
        with pytest.raises(UnsupportedError, match="prefill_chunk_size=8"):
            model.generate(**batch([prompt(3, "image", 5)]), max_new_tokens=1)


def test_labels_embeddings_masks_and_caches_that_cannot_be_compressed() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    with foveate.compress(model, FastV(keep=4)):
        with pytest.raises(UnsupportedError, match="labels"):
            model(**inputs, labels=inputs["input_ids"])
        text = batch([prompt(6)])
        assert model(**text, labels=text["input_ids"]).loss.isfinite()
        with pytest.raises(UnsupportedError, match="inputs_embeds"):
            model(inputs_embeds=torch.zeros(1, 4, 32))
        with pytest.raises(UnsupportedError, match="4-D"):
            model(**inputs | {"attention_mask": torch.zeros(1, 1, 24, 24)})
        sliding = Cache(layers=[StaticSlidingWindowLayer(max_cache_len=64, sliding_window=16) for _ in range(4)])
        with pytest.raises(UnsupportedError, match="StaticSlidingWindowLayer"):
            model(**inputs, past_key_values=sliding)
        with pytest.raises(InputError, match=r"24 of 24 image placeholders.*no encoded image"):
            model(input_ids=torch.tensor([[IMAGE] * 24]), attention_mask=torch.ones(1, 24))
        assert model(**inputs).logits.shape[1] == 12


def test_flex_attention_hides_its_rows() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    with foveate.compress(model, FastV(keep=4)):
        model.model.language_model.config._attn_implementation = "flex_attention"
        with pytest.raises(UnsupportedError, match="flex_attention"):
            model(**inputs)


def test_a_compressed_cache_after_removal_says_so_and_goes_on_under_a_new_handle() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    step = torch.tensor([[5], [6]])
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        cache = model(**inputs).past_key_values
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
        expected = model(input_ids=step, attention_mask=mask, past_key_values=copy.deepcopy(cache)).logits
    with pytest.raises(CacheError, match="compress"), torch.no_grad():
        model(input_ids=step, attention_mask=mask, past_key_values=copy.deepcopy(cache))
    with foveate.compress(model, Random(keep=2)), torch.no_grad():
        assert torch.equal(model(input_ids=step, attention_mask=mask, past_key_values=cache).logits, expected)


def test_a_cache_can_be_cropped_behind_the_cut_only_and_reset() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5)])
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        cache = model(**inputs).past_key_values
        expected = model(input_ids=torch.tensor([[5]]), past_key_values=copy.deepcopy(cache)).logits
        model(input_ids=torch.tensor([[8, 9]]), past_key_values=cache)
        cache.crop(-2)
        torch.testing.assert_close(model(input_ids=torch.tensor([[5]]), past_key_values=cache).logits, expected)
        with pytest.raises(CacheError, match="compressed together"):
            cache.crop(-3)
        cache.reset()
        assert cache.get_seq_length() == 0
        torch.testing.assert_close(model(**inputs, past_key_values=cache).logits, model(**inputs).logits)


def test_rows_of_a_compressed_cache_can_be_selected_and_repeated() -> None:
    model, inputs = tiny_llava(), batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    with foveate.compress(model, Fixed(targets=(SPARSE, keep_target([3])))), torch.no_grad():
        cache = model(**inputs).past_key_values
        expected = model(input_ids=torch.tensor([[5], [6]]), attention_mask=mask, past_key_values=copy.deepcopy(cache)).logits
        swapped = copy.deepcopy(cache)
        swapped.batch_select_indices(torch.tensor([1, 0]))
        got = model(input_ids=torch.tensor([[6], [5]]), attention_mask=mask[[1, 0]], past_key_values=swapped).logits
        torch.testing.assert_close(got, expected[[1, 0]])
        reordered = copy.deepcopy(cache)
        reordered.reorder_cache(torch.tensor([1, 0]))
        got = model(input_ids=torch.tensor([[6], [5]]), attention_mask=mask[[1, 0]], past_key_values=reordered).logits
        torch.testing.assert_close(got, expected[[1, 0]])
        cache.batch_repeat_interleave(2)
        got = model(input_ids=torch.tensor([[5], [5], [6], [6]]), attention_mask=mask.repeat_interleave(2, 0), past_key_values=cache).logits
        torch.testing.assert_close(got, expected.repeat_interleave(2, 0))
