"""Kinds of key/value caches: dynamic and static ones work, the others are refused before any decoder layer runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from around import METHOD, answer, assert_pruning_equals_masking, assert_shortened, outside, two_rows, used_llava
from devices import FIRST, put, spread
from tiny import batch, prompt, tiny_llava
from transformers import Cache, DynamicCache, MistralConfig, QuantizedCache, StaticCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, QuantizedLayer, StaticLayer, StaticSlidingWindowLayer
from waits import Waits

import foveate
from foveate import FastV
from foveate.errors import UnsupportedError, UnsupportedModelError


class Whole(QuantizedLayer):
    """A quantised layer without the packages that quantise."""

    def _quantize(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
        return tensor

    def _dequantize(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


class Strange(StaticLayer):
    """A static layer that somebody wrote."""


def static_of(config: Any, make: Callable[[], Any]) -> StaticCache:
    cache = StaticCache(config=config, max_cache_len=64)
    cache.layers = [make() for _ in cache.layers]
    return cache


def offloaded(cache: Any) -> Any:
    cache.offloading = True  # the constructor wants an accelerator's stream
    return cache


CACHES: dict[str, Any] = {
    "static and sliding": lambda config: static_of(config, lambda: StaticSlidingWindowLayer(max_cache_len=64, sliding_window=16)),
    "static, of an unknown kind": lambda config: static_of(config, lambda: Strange(max_cache_len=64)),
    "static and offloaded": lambda config: offloaded(StaticCache(config=config, max_cache_len=64)),
    "quantised": lambda config: Cache(layers=[Whole() for _ in range(config.num_hidden_layers)]),
    "sliding": lambda config: Cache(layers=[DynamicSlidingWindowLayer(sliding_window=64) for _ in range(config.num_hidden_layers)]),
    "one sliding layer": lambda config: Cache(layers=[DynamicLayer(), DynamicSlidingWindowLayer(sliding_window=64)] * 2),
    "offloaded": lambda config: offloaded(DynamicCache()),
}


@pytest.mark.parametrize("make", CACHES.values(), ids=CACHES.keys())
def test_other_caches_are_refused_before_any_layer_runs(make: Any) -> None:
    model, ran = used_llava(), []
    config = model.config.text_config
    hook = model.model.language_model.layers[0].register_forward_hook(lambda *_: ran.append(1))
    with foveate.compress(model, METHOD) as handle:
        before = outside(model)
        for way in (model, lambda **options: answer(model, options)):
            cache = make(config)
            with pytest.raises(UnsupportedError, match=rf"{type(cache).__name__}.*DynamicCache.*remove the handle"):
                way(**two_rows(), past_key_values=cache)
            assert cache.get_seq_length() == 0
        assert not ran
        assert outside(model) == before
        answer(model, two_rows(), max_new_tokens=1)
        assert_shortened(handle)
    hook.remove()


@pytest.mark.parametrize("name", ["offloaded", "offloaded_static", "quantized"])
def test_other_caches_are_refused_by_their_name_in_generate(name: str) -> None:
    if "offloaded" in name and not torch.accelerator.is_available():
        pytest.skip("transformers itself wants an accelerator for it")
    options: dict[str, Any] = {"cache_implementation": name}
    if name == "quantized":
        try:
            QuantizedCache(backend="fp8", config=tiny_llava().config.text_config)
        except ValueError:
            pytest.skip("this transformers has no quantised cache without another package")
        options["cache_config"] = {"backend": "fp8"}
    model = tiny_llava()
    with foveate.compress(model, METHOD), pytest.raises(UnsupportedError, match="DynamicCache"):
        answer(model, two_rows(), **options)


def test_text_alone_still_goes_into_any_cache() -> None:
    model, text = tiny_llava(), batch([prompt(6), prompt(4, seed=1)])
    expected = torch.stack(answer(model, text, cache_implementation="static", max_new_tokens=2).logits)
    with foveate.compress(model, METHOD):
        assert torch.equal(torch.stack(answer(model, text, cache_implementation="static", max_new_tokens=2).logits), expected)


def test_the_dynamic_cache_prunes_as_it_masks_whoever_makes_it() -> None:
    model = tiny_llava()
    assert_pruning_equals_masking(model, model, past_key_values=DynamicCache())
    assert_pruning_equals_masking(model, model, cache_implementation="dynamic")


def test_the_static_cache_prunes_as_it_masks_whoever_makes_it() -> None:
    model = tiny_llava()
    assert_pruning_equals_masking(model, model, past_key_values=StaticCache(config=model.config.text_config, max_cache_len=64))
    assert_pruning_equals_masking(model, model, cache_implementation="static")


@pytest.mark.parametrize("rows", [1, 2])
def test_a_step_on_a_static_cache_waits_for_nothing(rows: int) -> None:
    inputs = put({name: tensor[:rows] for name, tensor in two_rows().items()}, FIRST)
    step = {"input_ids": put(torch.full((rows, 1), 5), FIRST)}

    def found(model: Any) -> list[list[str]]:
        cache, steps = StaticCache(config=model.config.text_config, max_cache_len=64), []
        with Waits():
            model(**inputs, past_key_values=cache)
        mask = inputs["attention_mask"]
        for masked in (True, False):
            with Waits() as waits:
                mask = torch.cat([mask, mask[:, -1:]], dim=1)
                model(**step, past_key_values=cache, **({"attention_mask": mask} if masked else {}))
            steps.append(waits.found)
        return steps

    model = spread(tiny_llava(), range(0))
    with torch.no_grad():
        plain = found(model)
        with foveate.compress(model, FastV(keep=4)):
            compressed = found(model)
    assert not [each for steps in compressed for each in steps if "foveate/" in each]
    assert [len(steps) for steps in compressed] == [len(steps) for steps in plain]


def test_a_static_cache_that_reaches_the_backbone_by_itself_is_refused() -> None:
    model = tiny_llava()
    cache = StaticCache(config=model.config.text_config, max_cache_len=64)
    with foveate.compress(model, METHOD):
        with pytest.raises(UnsupportedError, match="the model itself"):
            model.model(**two_rows(), past_key_values=cache)
        assert cache.get_seq_length() == 0


def test_a_decoder_with_a_sliding_window_is_refused_at_once() -> None:
    model = tiny_llava(decoder=MistralConfig, sliding_window=8)
    before = outside(model)
    with pytest.raises(UnsupportedModelError, match="sliding_window=8"):
        foveate.compress(model, FastV(keep=4))
    assert outside(model) == before
