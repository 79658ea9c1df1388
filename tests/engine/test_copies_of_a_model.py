"""Copies of a compressed model work by themselves: deep copies, pickles, and caches that travel without their handle."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import METHODS, SPARSE, Fixed, batch, generate, prompt, reference_logits, tiny_llava
from torch import Tensor

import foveate
from foveate.engine.standins import StandIns
from foveate.errors import CacheError, HandleError


def saved_and_loaded(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved_and_loaded,
}
INPUTS = batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
METHOD = Fixed(targets=(SPARSE,))


@pytest.fixture(params=WAYS)
def copied(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    return WAYS[request.param]


def changed(model: Any) -> Any:
    """The same model with other weights, so that a run of the original's would be seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    return model


def logits(model: Any) -> Tensor:
    return torch.stack(generate(model, INPUTS).logits, 1)


def truth(model: Any, sequences: Tensor) -> Tensor:
    """What a clean model says under masks, for every generated token."""
    width = INPUTS["input_ids"].shape[1]
    mask = torch.cat([INPUTS["attention_mask"], torch.ones(2, sequences.shape[1] - width, dtype=torch.long)], 1)
    targets = [[torch.tensor(SPARSE)]] * 2
    return reference_logits(model, sequences, mask, INPUTS["pixel_values"], width, targets, METHOD.layer)[:, width - 1 : -1]


def test_a_copy_runs_its_own_weights_under_its_own_handle(copied: Callable[[Any], Any]) -> None:
    model = tiny_llava()
    original = foveate.compress(model, METHOD)
    other = changed(copied(model))
    own = foveate.handle_of(other)
    assert own is not None
    assert own is not original
    original.remove()

    out = generate(other, INPUTS)
    assert [image.tokens_after for image in own.report.images] == [5, 5]
    assert not original.report.images
    own.remove()
    torch.testing.assert_close(torch.stack(out.logits, 1), truth(changed(tiny_llava()), out.sequences), atol=1e-4, rtol=1e-4)
    assert foveate.handle_of(other) is None
    torch.testing.assert_close(logits(other), logits(changed(tiny_llava())))


def test_removing_the_copys_handle_leaves_the_original_compressed(copied: Callable[[Any], Any]) -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD) as handle:
        other = copied(model)  # before the first call, in which transformers installs hooks that cannot be pickled
        expected = logits(model)
        foveate.handle_of(other).remove()
        assert torch.equal(logits(model), expected)
        assert [image.tokens_after for image in handle.report.images] == [5, 5]


def test_a_copy_is_compressed_already(copied: Callable[[Any], Any]) -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD):
        other = copied(model)
    with pytest.raises(HandleError, match="handle_of"):
        foveate.compress(other, METHOD)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_every_method_travels_with_a_copy(method: foveate.Method) -> None:
    model = tiny_llava(dtype=torch.float64)
    inputs = {**INPUTS, "pixel_values": INPUTS["pixel_values"].double()}
    with foveate.compress(model, method) as handle:
        expected = model(**inputs).logits
        other = copy.deepcopy(model)
    assert torch.equal(other(**inputs).logits, expected)
    assert foveate.handle_of(other).report.images == handle.report.images


def test_a_copy_of_the_backbone_alone_is_a_model_of_its_own() -> None:
    model = tiny_llava()
    with foveate.compress(model, METHOD), torch.no_grad():
        expected = model.model(**INPUTS).last_hidden_state
        other = copy.deepcopy(model.model)
    with torch.no_grad():
        assert torch.equal(other(**INPUTS).last_hidden_state, expected)


def test_a_cache_that_was_pickled_is_decoded_under_a_handle_and_refused_without() -> None:
    model = tiny_llava()
    step = {"input_ids": torch.tensor([[5], [6]])}
    with foveate.compress(model, METHOD), torch.no_grad():
        out = model(**INPUTS)
        cache = pickle.dumps(out.past_key_values)
        expected = model(**step, past_key_values=pickle.loads(cache)).logits
        other = copy.deepcopy(model)
        torch.testing.assert_close(other(**step, past_key_values=pickle.loads(cache)).logits, expected)
    with torch.no_grad(), pytest.raises(CacheError, match="no foveate handle"):
        model(**step, past_key_values=pickle.loads(cache))
    with torch.no_grad(), pytest.raises(CacheError, match="no foveate handle"):
        tiny_llava()(**step, past_key_values=pickle.loads(cache))


def test_an_interrupted_step_opens_no_other_cache_to_a_model_without_a_handle() -> None:
    model, step = tiny_llava(), {"input_ids": torch.tensor([[5], [6]])}
    plain = copy.deepcopy(model)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with foveate.compress(model, METHOD), torch.no_grad():
        cache = model(**INPUTS).past_key_values
        hook = model.model.language_model.layers[1].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            model(**step, past_key_values=copy.deepcopy(cache))
        hook.remove()
        with pytest.raises(CacheError, match="no foveate handle"):
            plain(**step, past_key_values=cache)


def test_a_lost_handle_is_found_again() -> None:
    model = tiny_llava()
    expected = logits(model)
    assert foveate.handle_of(model) is None
    foveate.compress(model, METHOD)
    foveate.handle_of(model).remove()
    assert foveate.handle_of(model) is None
    assert torch.equal(logits(model), expected)


def test_what_another_tool_put_around_generate_stays_there() -> None:
    model = tiny_llava()
    expected = logits(model)
    handle = foveate.compress(model, METHOD)
    inner, calls = model.generate, []
    model.generate = lambda *args, **kwargs: (calls.append(1), inner(*args, **kwargs))[1]
    handle.remove()
    assert torch.equal(logits(model), expected)
    assert calls == [1]


def test_an_attribute_that_another_tool_took_away_is_no_fault() -> None:
    model = tiny_llava()
    handle = foveate.compress(model, METHOD)
    del model.generate
    del model.model.get_image_features
    handle.remove()
    assert not handle.active


def test_stand_ins_around_each_other_are_each_called() -> None:
    model = tiny_llava()
    calls: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        return lambda original, *args, **kwargs: (calls.append(name), original(*args, **kwargs))[1]

    inner, outer = StandIns(model), StandIns(model)
    inner.put("generate", noted("inner"))
    with foveate.compress(model, METHOD) as handle:
        outer.put("generate", noted("outer"))
        generate(model, INPUTS)
        assert [image.tokens_after for image in handle.report.images] == [5, 5]
        outer.remove()
    inner.remove()
    assert calls == ["outer", "inner"]
    assert "generate" not in vars(model)
