"""What no forward pass may get wrong in silence: each way of going wrong ends in an error that names the transformers version."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from tiny import METHODS, batch, generate, prompt, tiny_llava

import foveate
from foveate import FastV, Random
from foveate.engine import arguments, forward, invariants, prefill, versions
from foveate.errors import CacheError, ConsistencyError, UntestedVersionWarning

INPUTS = batch([prompt(3, "image", 5)])
VERSION = transformers.__version__.replace(".", r"\.")


def layers(model: Any) -> Any:
    return model.model.language_model.layers


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    own = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, own)


def refused(model: Any, match: str) -> None:
    with torch.no_grad(), pytest.raises(ConsistencyError, match=rf"(?s){match}.*{VERSION}.*{versions.NEWEST}"):
        model(**INPUTS)


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_cache_under_a_name_that_is_not_known_is_found(method: foveate.Method, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llava(attention=attention)
    with foveate.compress(model, method):
        expected = generate(model, INPUTS)
        monkeypatch.setattr(arguments, "CACHE_NAMES", ("some_other_name",))
        out = generate(model, INPUTS)
    assert torch.equal(torch.stack(out.logits), torch.stack(expected.logits))


# Where no layer runs before the cut, no cache is trimmed.
@pytest.mark.parametrize("method", [method for method in METHODS if method.layer > 0], ids=repr)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_layers_whose_cache_is_not_seen(method: foveate.Method, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when transformers 5.24 renamed it: with SDPA and no padding nothing else would be raised."""
    model = tiny_llava(attention=attention)
    monkeypatch.setattr(prefill, "cache_of", lambda kwargs: None)
    with foveate.compress(model, method):
        refused(model, "key/value cache of decoder layer 0 holds 24 keys instead of the planned 14")


def test_a_step_whose_cache_is_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llava()
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        cache = model(**INPUTS).past_key_values
        monkeypatch.setattr(forward, "cache_of", lambda kwargs: None)
        with pytest.raises(CacheError, match="no foveate handle"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)


@pytest.mark.parametrize(
    ("kept", "match"),
    [((0, 1, 3), "layer 3 was called where layer 2 was due"), ((0, 1, 2, 2, 3), "layer 2 was called where layer 3 was due")],
)
def test_layers_that_are_skipped_or_called_again(kept: tuple[int, ...], match: str) -> None:
    model = tiny_llava()
    decoder = model.model.language_model
    with foveate.compress(model, FastV(keep=4)):
        order = torch.nn.ModuleList([layers(model)[index] for index in kept])
        with replaced(decoder, "layers", order), replaced(decoder.config, "num_hidden_layers", len(kept)):
            refused(model, match)


def test_a_decoder_that_leaves_its_last_layer_out() -> None:
    model = tiny_llava()
    decoder = model.model.language_model
    with foveate.compress(model, FastV(keep=4)), replaced(decoder, "layers", decoder.layers[:3]):
        with replaced(decoder.config, "num_hidden_layers", 3):
            refused(model, "finished after 3 of its 4 layers")


def test_a_layer_that_gives_another_length() -> None:
    model = tiny_llava()
    with foveate.compress(model, FastV(keep=4)):
        longer = layers(model)[2].register_forward_hook(lambda module, args, output: torch.cat([output, output[:, -1:]], 1))
        refused(model, r"layer 3 was given \(1, 13\).*instead of the planned \(1, 12\)")
        longer.remove()


@pytest.mark.parametrize("index", [0, 3])
def test_a_mask_of_another_width(index: int) -> None:
    """Another tool's hook stands before ours."""
    model = tiny_llava(attention="eager")

    def narrow(module: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "attention_mask": kwargs["attention_mask"][..., 1:]}

    with foveate.compress(model, FastV(keep=4)):
        cache = model(**INPUTS).past_key_values
        hook = layers(model)[index].register_forward_pre_hook(narrow, with_kwargs=True, prepend=True)
        if index == 0:
            refused(model, "mask of decoder layer 0 is 23 keys wide, but the layer has 24")
        with torch.no_grad(), pytest.raises(ConsistencyError, match="keys wide"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)
        hook.remove()


def test_a_layer_whose_cache_does_not_grow_in_a_step() -> None:
    model = tiny_llava()
    with foveate.compress(model, FastV(keep=4)), torch.no_grad():
        cache = model(**INPUTS).past_key_values
        attention = layers(model)[3].self_attn
        forward = attention.forward

        def forget(*args: Any, **kwargs: Any) -> Any:
            return forward(*args, **arguments.with_cache(kwargs, None))

        with replaced(attention, "forward", forget), pytest.raises(ConsistencyError, match=r"layer 3 holds 12 keys instead of .* 13"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)


def test_a_model_that_runs_past_its_backbone() -> None:
    model = tiny_llava()
    backbone = model.model

    with foveate.compress(model, Random(keep=4)):
        hooks, backbone._forward_pre_hooks = backbone._forward_pre_hooks, type(backbone._forward_pre_hooks)()
        refused(model, "at full length")
        backbone._forward_pre_hooks = hooks


def test_the_invariants_wait_for_no_tensor() -> None:
    """They are of host integers: a step on `meta`, where no tensor has a value, would raise if one were read."""
    mask = torch.empty(2, 1, 1, 7, device="meta")
    invariants.check_mask(0, mask, 7)
    invariants.check_shape(0, torch.empty(2, 7, 4, device="meta"), (2, 7))
    with pytest.raises(ConsistencyError):
        invariants.check_mask(0, mask, 8)


def compress_three_times(model: Any) -> None:
    for _ in range(3):
        foveate.compress(model, FastV(keep=4)).remove()


@pytest.mark.parametrize("installed", ["5.15.9", "5.24.1", "5.25.0", "6.0.0.dev0"])
def test_one_warning_outside_the_tested_range(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda: installed)
    versions.warn_if_untested.cache_clear()
    model = tiny_llava()
    with pytest.warns(UntestedVersionWarning, match=rf"{installed}.*{versions.OLDEST} to {versions.NEWEST}") as caught:
        compress_three_times(model)
    assert len([each for each in caught if each.category is UntestedVersionWarning]) == 1
    assert caught[0].filename == __file__
    versions.warn_if_untested.cache_clear()


@pytest.mark.parametrize("installed", [versions.OLDEST, "5.20.1", versions.NEWEST])
def test_no_warning_within_the_tested_range(installed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda: installed)
    versions.warn_if_untested.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntestedVersionWarning)
        foveate.compress(tiny_llava(), FastV(keep=4)).remove()
    versions.warn_if_untested.cache_clear()


def test_the_embedded_range_covers_what_is_installed_here() -> None:
    generate(tiny_llava(), INPUTS, steps=1)
    assert versions.Version(versions.OLDEST) <= versions.Version(transformers.__version__) <= versions.Version(versions.NEWEST)
