"""The sizing of a server: its arithmetic is that of the model, and of a real key/value cache."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from foveate import demo
from foveate.errors import ParameterError, UnknownNameError, UnsupportedModelError
from foveate.measure import sizing
from foveate.measure.bench.shapes import Scale, shapes
from foveate.measure.sizing import GB, ModelSize, size_of_model, size_of_shape


@pytest.mark.parametrize("shape", demo.FOLDERS)
def test_bytes_are_those_of_a_cache_and_of_the_weights(shape: str) -> None:
    found = size_of_model("demo" if shape == "llava" else f"demo-{shape}", (336, 336))
    model, processor = demo.load(torch.bfloat16, shape=shape)
    scene = demo.scene(0)
    inputs = processor(images=scene.image.resize((336, 336)), text=demo.prompt("what is this?"), return_tensors="pt")
    placeholder = model.config.image_token_id
    assert found.tokens == int((inputs["input_ids"] == placeholder).sum())
    with torch.no_grad():
        inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
        cache = model(**inputs, use_cache=True).past_key_values
    held = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert found.cache_bytes(inputs["input_ids"].shape[1], torch.bfloat16) == held
    assert found.weight_bytes(torch.bfloat16) == sum(parameter.nbytes for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "billions", "bytes_of_a_token"),
    # As the models' cards give them, and 2 (key and value) x layers x key/value heads x head size x 2 bytes.
    [
        ("llava-1.5-7b", 7.06, 2 * 32 * 32 * 128 * 2),
        ("llava-1.5-13b", 13.35, 2 * 40 * 40 * 128 * 2),
        ("qwen2-vl-2b", 2.21, 2 * 28 * 2 * 128 * 2),
        ("qwen2-vl-7b", 8.29, 2 * 28 * 4 * 128 * 2),
        ("qwen2.5-vl-3b", 3.75, 2 * 36 * 2 * 128 * 2),
        ("qwen3-vl-8b", 8.77, 2 * 36 * 8 * 128 * 2),
    ],
)
def test_published_models_have_their_published_sizes(name: str, billions: float, bytes_of_a_token: int) -> None:
    found = size_of_shape(name)
    assert found.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert found.cache_bytes(1, torch.bfloat16) == bytes_of_a_token
    assert found.tokens == shapes()[name].picture.tokens


def test_a_gpu_holds_as_many_images_as_fit_and_no_more() -> None:
    model = ModelSize("made up", parameters=GB, layers=4, key_value_heads=2, head_size=64, tokens=100)
    each = 2 * 50 * 4 * 2 * 64 * 2
    count = model.images(10, 0.2, 50, torch.bfloat16)
    assert count is not None
    assert 2 * GB + count * each <= 8 * GB < 2 * GB + (count + 1) * each
    assert model.images(2, 0.0, 50, torch.bfloat16) == 0
    assert model.images(2, 0.01, 50, torch.bfloat16) is None
    assert [model.kept(keep) for keep in (None, 1, 100, 500, 1.0, 0.25, 0.001)] == [100, 1, 100, 100, 100, 25, 1]


def test_a_larger_image_has_more_tokens() -> None:
    assert size_of_shape("qwen2-vl-2b", (1344, 672)).tokens == 2 * size_of_shape("qwen2-vl-2b", (672, 672)).tokens
    with pytest.raises(ParameterError, match="336x336 only"):
        size_of_shape("llava-1.5-7b", (672, 672))
    with pytest.raises(UnknownNameError, match="did you mean 'qwen2-vl-2b'"):
        size_of_shape("qwen2-vl-2")


@pytest.mark.parametrize("settings", [{"layer_types": ["full_attention", "sliding_attention"]}, {"kv_lora_rank": 8}])
def test_keys_and_values_of_another_form_are_refused(settings: dict[str, object]) -> None:
    config = AutoConfig.for_model(**shapes()["llava-1.5-7b"].scaled(Scale(hidden=256, layers=4)).config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    for name, value in settings.items():
        setattr(model.config.text_config, name, value)
    with pytest.raises(UnsupportedModelError, match="no multiple of the tokens"):
        sizing._size("made up", model, 576)
