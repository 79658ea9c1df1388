"""Published shapes: they are what they claim to be, and scale without breaking."""

from __future__ import annotations

import pytest
import torch

from foveate.errors import InputError, UnknownNameError
from foveate.measure.bench.shapes import Scale, build, find_shape, parse_size, shapes, sizes

META = torch.device("meta")
PARAMETERS = {
    "llava-1.5-7b": 7_063_427_072,
    "llava-1.5-13b": 13_351_494_656,
    "qwen2-vl-2b": 2_208_985_600,
    "qwen2-vl-7b": 8_291_375_616,
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen3-vl-8b": 8_767_123_696,
    "internvl3-8b": 7_944_373_760,
}
"""What the published checkpoints hold."""


def test_every_shape_is_listed_here() -> None:
    assert set(PARAMETERS) == set(shapes())


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_shape_has_as_many_parameters_as_the_checkpoint_that_it_names(name: str) -> None:
    model = build(find_shape(name), device=META, dtype=torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("size", [Scale(0.25), Scale(0.01), Scale(hidden=512, layers=6)], ids=str)
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_scaled_shape_keeps_its_head_size_and_can_be_built(name: str, size: Scale) -> None:
    whole = find_shape(name)
    scaled = whole.scaled(size)
    before, after = whole.config["text_config"], scaled.config["text_config"]
    head = before["hidden_size"] // before["num_attention_heads"]
    assert after["hidden_size"] == after["num_attention_heads"] * head
    assert after["num_attention_heads"] % after["num_key_value_heads"] == 0
    assert after["num_hidden_layers"] >= 4
    assert after["vocab_size"] == before["vocab_size"]
    build(scaled, device=META, dtype=torch.float32)
    assert find_shape(name) == whole


def test_width_and_layers_can_be_given() -> None:
    model = build(find_shape("llava-1.5-7b").scaled(parse_size("1024/16")), device=META, dtype=torch.float32)
    text = sizes(model.config)["text"]
    assert (text["hidden_size"], text["num_hidden_layers"], text["num_attention_heads"]) == (1024, 16, 8)


@pytest.mark.parametrize("text", ["0", "2", "-1", "nan", "big", "1024/", "/16", "1000/16", "1024/3", "0/8"])
def test_a_scale_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="scale="):
        find_shape("llava-1.5-7b").scaled(parse_size(text))


@pytest.mark.parametrize(("name", "near"), [("llava-1.5-7B", None), ("lava-1.5-7b", "llava-1.5-7b"), ("qwen2vl-7b", "qwen2-vl-7b")])
def test_a_misspelt_shape_is_named(name: str, near: str | None) -> None:
    if near is None:
        assert find_shape(name).name == name.lower()
        return
    with pytest.raises(UnknownNameError, match=f"did you mean '{near}'"):
        find_shape(name)


def test_towers_that_take_any_size_are_given_any_multiple_of_a_token() -> None:
    picture = find_shape("qwen2-vl-7b").picture
    assert picture.tokens == 576
    assert picture.sized(1008, 672).grid == (24, 36)
    with pytest.raises(InputError, match="multiples of 28"):
        picture.sized(1000, 672)
    with pytest.raises(InputError, match="336x336 only"):
        find_shape("llava-1.5-7b").picture.sized(672, 672)


def test_weights_follow_the_seed() -> None:
    shape = find_shape("llava-1.5-7b").scaled(parse_size("128/4"))
    first, same, other = (build(shape, device=torch.device("cpu"), dtype=torch.bfloat16, seed=seed).lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
