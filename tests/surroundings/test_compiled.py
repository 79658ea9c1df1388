"""torch.compile where foveate's hooks sit: for steps on a static cache alone, whichever came first; harmless elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from around import METHOD, answer, assert_shortened, outside, two_rows
from tiny import batch, prompt, tiny_llava
from transformers import StaticCache

import foveate
from foveate.engine.arguments import as_argument
from foveate.errors import UnsupportedError


def compiled(module: Any) -> Any:
    # Only that it is compiled matters here; "eager" traces as any backend does, and needs no C++ compiler.
    return torch.compile(module, backend="eager")


def replace_decoder(model: Any) -> None:
    model.model.language_model = compiled(model.model.language_model)


def replace_layers(model: Any) -> None:
    layers = model.model.language_model.layers
    for index, layer in enumerate(layers):
        layers[index] = compiled(layer)


def replace_forward(model: Any) -> None:
    model.forward = compiled(model.forward)


WAYS: dict[str, tuple[Callable[[Any], None], str]] = {
    "the whole model": (lambda model: model.compile(backend="eager"), "the model"),
    "the model's forward": (replace_forward, "the model"),
    "its backbone": (lambda model: model.model.compile(backend="eager"), "its backbone"),
    "its decoder": (lambda model: model.model.language_model.compile(backend="eager"), "its text decoder"),
    "its decoder, wrapped": (replace_decoder, "its text decoder"),
    "its layers": (lambda model: [each.compile(backend="eager") for each in model.model.language_model.layers], "decoder layer 0"),
    "its layers, wrapped": (replace_layers, "decoder layer 0"),
    "one attention": (
        lambda model: model.model.language_model.layers[1].self_attn.compile(backend="eager"),
        "attention of decoder layer 1",
    ),
}


PAST_THE_HOOKS = ("the whole model", "its backbone")
"""Whose call is compiled, hooks and all: code that is older than the handle runs past them."""


@pytest.mark.parametrize("name", PAST_THE_HOOKS)
def test_a_compiled_call_is_refused_at_once(name: str) -> None:
    way, place = WAYS[name]
    model = tiny_llava()
    way(model)
    before = outside(model)
    with pytest.raises(UnsupportedError, match=rf"{place} .*torch\.compile.*without it"):
        foveate.compress(model, METHOD)
    assert outside(model) == before


@pytest.mark.parametrize("name", [name for name in WAYS if name not in PAST_THE_HOOKS])
def test_a_compiled_decoder_wants_a_static_cache(name: str) -> None:
    way, place = WAYS[name]
    model, ran = tiny_llava(), []
    way(model)
    layers = model.model.language_model.layers
    layers[0].mlp.register_forward_hook(lambda *_: ran.append("layer"))
    with foveate.compress(model, METHOD) as handle, torch.no_grad():
        for call in (lambda: model(**two_rows()), lambda: model.generate(**two_rows(), max_new_tokens=2)):
            with pytest.raises(UnsupportedError, match=rf"{place} .*torch\.compile.*cache_implementation='static'.*without it"):
                call()
        assert not ran
        assert not handle.report.images


def test_a_model_in_a_compiled_wrapper_is_refused_at_once() -> None:
    with pytest.raises(UnsupportedError, match=r"the model \(OptimizedModule\)"):
        foveate.compress(compiled(tiny_llava()), METHOD)


@pytest.mark.parametrize("name", ["its decoder", "its decoder, wrapped", "its layers"])
def test_a_decoder_compiled_under_the_handle_is_refused_before_any_layer_runs(name: str) -> None:
    way, place = WAYS[name]
    model, ran = tiny_llava(), []
    model.model.language_model.embed_tokens.register_forward_hook(lambda *_: ran.append("embedding"))
    model.model.language_model.layers[0].mlp.register_forward_hook(lambda *_: ran.append("layer"))
    with foveate.compress(model, METHOD):
        way(model)
        with pytest.raises(UnsupportedError, match=place):
            model(**two_rows())
    assert not ran


def test_a_decoder_that_does_not_call_its_layers_is_not_taken_for_compressed() -> None:
    model = tiny_llava()
    for layer in model.model.language_model.layers:
        layer._call_impl = layer.forward  # what compiled code that was made before the handle amounts to
    with foveate.compress(model, METHOD), pytest.raises(UnsupportedError, match=r"without calling its layer 2"):
        model(**two_rows())


def test_the_tower_and_the_mlps_may_be_compiled() -> None:
    model, plain = tiny_llava(), tiny_llava()
    for module in (model.model.vision_tower, model.model.language_model.layers[0].mlp, model.model.language_model.layers[3].mlp):
        module.compile(backend="eager", dynamic=True)
    with torch.no_grad():
        model(**two_rows())  # traced before the handle comes
        with foveate.compress(model, METHOD) as handle:
            logits = model(**two_rows()).logits
            assert_shortened(handle)
        with foveate.compress(plain, METHOD):
            expected = plain(**two_rows()).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


STATIC = {"cache_implementation": "static", "disable_compile": True, "max_new_tokens": 4}
DECODING = ("the model's forward", "its decoder", "its decoder, wrapped", "its layers")


def expected_answer() -> Any:
    model = tiny_llava()
    with foveate.compress(model, METHOD):
        return answer(model, two_rows(), max_new_tokens=4)


@pytest.mark.parametrize("before", [True, False], ids=["before the handle", "under the handle"])
@pytest.mark.parametrize("name", DECODING)
def test_compiled_modules_decode_on_a_static_cache(name: str, before: bool) -> None:
    model, way = tiny_llava(), WAYS[name][0]
    torch._dynamo.reset()
    if before:
        way(model)
        with torch.no_grad():
            model(**two_rows())  # traced at full length
    with foveate.compress(model, METHOD) as handle:
        if not before:
            way(model)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        out = answer(model, two_rows(), **STATIC)
        assert_shortened(handle)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > graphs
    assert torch.equal(out.sequences, expected_answer().sequences)


def test_a_model_compiled_in_place_under_the_handle_generates_but_takes_no_prompt_by_hand() -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD) as handle:
        model.compile(backend="eager")
        out = answer(model, two_rows(), **STATIC)
        assert_shortened(handle)
        with pytest.raises(UnsupportedError, match="prompt runs inside compiled code"), torch.no_grad():
            model(**two_rows(), **as_argument(StaticCache(config=model.config.text_config, max_cache_len=40)))
        with pytest.raises(UnsupportedError, match=r"torch\.compile.*cache_implementation='static'"):
            answer(model, two_rows())
    assert torch.equal(out.sequences, expected_answer().sequences)


def test_prompts_in_a_compiled_wrapper_are_refused() -> None:
    model, ran = tiny_llava(), []
    model.model.language_model.layers[0].mlp.register_forward_hook(lambda *_: ran.append(1))
    inputs = batch([prompt(3, "image", 5)])
    with foveate.compress(model, METHOD), torch.no_grad():
        for options in ({}, as_argument(StaticCache(config=model.config.text_config, max_cache_len=40))):
            with pytest.raises(UnsupportedError, match="prompt runs inside compiled code"):
                compiled(model)(**inputs, **options)
        with pytest.raises(RuntimeError):  # Dynamo's own error, where it may not leave the graph
            torch.compile(model, backend="eager", fullgraph=True)(**inputs)
        assert not ran
