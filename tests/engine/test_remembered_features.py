"""The vision tower runs once for a picture, however often it is shown."""

from __future__ import annotations

import pytest
import torch
from tiny import batch, prompt, tiny_llava

import foveate
from foveate.engine.remembered import remembered_features


def towers(model: torch.nn.Module) -> list[int]:
    """The number of pictures of each run of the vision tower, as it runs."""
    runs: list[int] = []
    model.model.vision_tower.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda module, args, kwargs: runs.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    return runs


def test_answers_and_relevance_share_one_run_of_the_tower_and_are_as_without() -> None:
    model = tiny_llava()
    inputs = batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    plain = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    explained = foveate.relevance(model, inputs, max_new_tokens=2)
    runs = towers(model)
    with remembered_features(model):
        assert torch.equal(model.generate(**inputs, max_new_tokens=4, do_sample=False), plain)
        again = foveate.relevance(model, inputs, max_new_tokens=2)
        one = {**inputs, "pixel_values": inputs["pixel_values"][:1].expand(2, -1, -1, -1)}
        model.generate(**one, max_new_tokens=1)
    assert sum(runs) == 2
    for ours, theirs in zip(again.images, explained.images, strict=True):
        torch.testing.assert_close(ours.tokens, theirs.tokens, rtol=1e-4, atol=1e-7)
    assert "get_image_features" not in vars(model.model)


def test_only_the_last_pictures_are_remembered() -> None:
    model = tiny_llava()
    runs = towers(model)
    shown = [batch([prompt(3, "image", 5)], seed=seed) for seed in range(3)]
    with remembered_features(model, most=2):
        for number in (0, 1, 0, 2, 0, 1):
            model(**shown[number])
    assert sum(runs) == 4


def test_the_model_is_left_as_it_was_after_an_error() -> None:
    model = tiny_llava()
    with pytest.raises(RuntimeError, match="by hand"), remembered_features(model):
        raise RuntimeError("by hand")
    assert "get_image_features" not in vars(model.model)


@pytest.mark.parametrize("method", [foveate.TowerAttention(4), foveate.MMTok(4), foveate.Scope(4), foveate.VisionZip(4)], ids=str)
def test_plans_from_remembered_signals_of_the_tower_are_those_of_a_fresh_encoding(method: foveate.Method) -> None:
    model = tiny_llava()
    both = batch([prompt(3, "image", 5), prompt(2, "image", 9, seed=1)])
    swapped = {**both, "pixel_values": both["pixel_values"].flip(0)}

    def plans(inputs: dict[str, torch.Tensor]) -> list[object]:
        with foveate.compress(model, method) as handle:
            model.generate(**inputs, max_new_tokens=1)
            assert handle.report is not None
            return [image.plan for image in handle.report.images]

    fresh = [plans(both), plans(swapped)]
    assert fresh[0] != fresh[1]
    runs = towers(model)
    with remembered_features(model):
        model.generate(**both, max_new_tokens=1)
        assert [plans(both), plans(swapped), plans(both)] == [*fresh, fresh[0]]
    assert sum(runs) == 4  # once for the features, and once more when a method first reads the tower


def test_a_signal_that_was_not_read_before_is_read_in_one_more_run_of_the_tower() -> None:
    model = tiny_llava()
    inputs = batch([prompt(3, "image", 5)])
    runs = towers(model)
    with remembered_features(model):
        for method in (foveate.TowerAttention(4), foveate.MMTok(4), foveate.Scope(4), foveate.MMTok(3)):
            with foveate.compress(model, method):
                model(**inputs)
    assert sum(runs) == 2
