"""The host's time of a prefill and a decoding step, with and without a method."""

from __future__ import annotations

import pytest

from foveate import FastV, Random, handle_of
from foveate.measure.bench import host_overhead
from foveate.measure.bench.host_overhead import host_model


def test_every_method_is_timed_beside_no_compression(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    build = host_overhead.build
    monkeypatch.setattr(host_overhead, "build", lambda *args, **options: made.append(build(*args, **options)) or made[-1])
    found = host_overhead.host_overhead([lambda keep: FastV(keep=keep), lambda keep: Random(keep=keep)], layers=4, rounds=3, steps=2)
    assert [each.method for each in found] == ["FastV(keep=35)", "Random(keep=35)"]
    assert len({each.plain for each in found}) == 1
    for each in found:
        assert min(each.plain, each.compressed, each.plain_step, each.compressed_step) > 0
        assert each.ratio > 0.5
    assert handle_of(made[0]) is None


def test_the_model_is_as_small_as_it_is_said_to_be() -> None:
    model, inputs = host_model(8)
    text = model.config.get_text_config()
    assert (text.hidden_size, text.num_hidden_layers) == (64, 8)
    assert inputs["input_ids"].shape == (1, 60)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 36
