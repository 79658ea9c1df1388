"""What the one loader says of weights, and of a folder, where a whole run of the command line is not needed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import tiny_llava
from torch import nn

from foveate import demo
from foveate.errors import CheckpointError, FoveateError, InputError
from foveate.files.checkpoints import Checkpoint, check_loading_info, find_checkpoint, load_config, load_folder, load_weights
from foveate.files.checkpoints.files import Weights
from foveate.files.checkpoints.sizes import check_counts, check_tensors, check_weights

HERE = Checkpoint("some/model", "some/model")
NOTHING: dict[str, Any] = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set()}


def model(quantised: bool = False) -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    if quantised:
        made.hf_quantizer = SimpleNamespace()
    return made


def test_everything_that_does_not_fit_is_named_in_one_line() -> None:
    info = {
        "missing_keys": {"0.weight", "0.bias", "1.weight", "1.bias"},
        "unexpected_keys": {"2.weight"},
        "mismatched_keys": {("1.scale", torch.Size([3, 2]), torch.Size([2, 2]))},
    }
    with pytest.raises(CheckpointError) as refused:
        check_loading_info("some/model", model(), info)
    assert str(refused.value) == (
        "the weights of some/model do not fit its configuration, so parts of the model would be random: "
        "missing 4 of 4 tensors (0.bias, 0.weight, 1.bias and 1 more); left over 1, for which a Sequential has no place (2.weight); "
        "of another shape 1 (1.scale 3 x 2 for 2 x 2); get both from one place"
    )


def test_a_model_with_nothing_missing_or_left_over_passes() -> None:
    check_loading_info("some/model", model(), NOTHING)


def test_what_a_quantiser_keeps_with_a_known_weight_is_not_unexpected() -> None:
    beside, strange = {"0.weight_scale", "1.input_scale"}, {"2.weight_scale"}
    check_loading_info("some/model", model(quantised=True), {**NOTHING, "unexpected_keys": beside})
    for made, left in ((model(), beside), (model(quantised=True), beside | strange)):
        with pytest.raises(CheckpointError, match="left over"):
            check_loading_info("some/model", made, {**NOTHING, "unexpected_keys": left})


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_that_is_tied_need_not_be_in_the_files_and_another_must(tied: bool, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    made = tiny_llava()
    made.config.tie_word_embeddings = made.config.text_config.tie_word_embeddings = tied
    made.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "lm_head" not in name}, file, metadata={"format": "pt"})
    if tied:
        loaded = load_folder(tmp_path)
        assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
        return
    with pytest.raises(CheckpointError, match=r"missing 1 of \d+ tensors \(lm_head.weight\)"):
        load_folder(tmp_path)


def test_the_embedded_model_is_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    shutil.copytree(demo.path(), tmp_path / "weights")
    whole = (tmp_path / "weights" / "model.safetensors").read_bytes()
    (tmp_path / "weights" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(demo, "path", lambda shape="llava": tmp_path / "weights")
    with pytest.raises(CheckpointError, match="damaged or cut off"):
        demo.load()


@pytest.mark.parametrize(
    "config",
    [
        {"vision_feature_layers": -2, "text_config": {"num_hidden_layers": 200}},
        {"vision_feature_layer": [-2, -5], "num_experts": 512},
        {"rope_theta": 1_000_000, "max_position_embeddings": 10**7, "num_hidden_layers": True},
    ],
)
def test_settings_of_real_models_are_not_taken_for_absurd_counts(config: dict[str, Any]) -> None:
    check_counts(HERE, config)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"text_config": {"num_hidden_layers": 10**9}}, "text_config.num_hidden_layers=1000000000"),
        ({"vision_config": {"depths": [2, 10**6]}}, "vision_config.depths=1000000"),
        ({"num_labels": 10**8}, "num_labels=100000000"),
        ({"text_config": {"n_routed_experts": 10**7}}, "n_routed_experts=10000000"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
    ],
)
def test_absurd_counts_are_named(config: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        check_counts(HERE, config)


def test_sizes_are_compared_with_files_only_as_far_as_these_are_known() -> None:
    skeleton = nn.Linear(10**5, 10**4, device="meta")
    check_weights(HERE, skeleton, Weights(2, None), quantised=False)
    check_weights(HERE, skeleton, Weights(2, 10**9), quantised=False)
    check_weights(HERE, skeleton, Weights(2, 2 * 10**8), quantised=True)
    with pytest.raises(CheckpointError, match="describes a model of 1e"):
        check_weights(HERE, skeleton, Weights(2, 2 * 10**8), quantised=False)
    check_tensors(HERE, {"num_hidden_layers": 32}, Weights(None, 1))
    with pytest.raises(CheckpointError, match="num_hidden_layers=32, but the weights are 31 tensors"):
        check_tensors(HERE, {"num_hidden_layers": 32}, Weights(31, 1))


def test_an_index_on_the_hub_without_a_size_says_how_many_tensors_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "model.safetensors.index.json"
    monkeypatch.setattr(Checkpoint, "file", lambda self, name: index if name == index.name else None)
    for metadata, size in (("{}", None), ("null", None), ('{"total_size": 7}', 7)):
        index.write_text(f'{{"metadata": {metadata}, "weight_map": {{"a": "x.safetensors", "b": "y.safetensors"}}}}')
        assert HERE.weights() == Weights(2, size)


def test_a_refused_checkpoint_is_bad_input_and_a_value_error() -> None:
    assert issubclass(CheckpointError, InputError)
    assert issubclass(CheckpointError, ValueError)
    assert issubclass(CheckpointError, FoveateError)


def test_a_device_without_room_raises_what_callers_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(nn.Module, "to", full)
    checkpoint = find_checkpoint(str(demo.path()))
    with pytest.raises(torch.OutOfMemoryError):
        load_weights(checkpoint, load_config(checkpoint))
