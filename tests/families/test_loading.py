"""Every family's models come back from their files as they were saved, and not if a tensor is missing or left over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES
from safetensors.torch import load_file, save_file
from zoo import known

from foveate.errors import CheckpointError
from foveate.files.checkpoints import load_folder

KNOWN = [case for case in CASES if known(case.model_type)]


@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_a_saved_model_comes_back_whole(case: Any, tmp_path: Path) -> None:
    model = case.build()
    model.save_pretrained(tmp_path)
    loaded = load_folder(tmp_path)
    assert type(loaded) is type(model)
    expected, found = model.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(found[name], values), name


@pytest.mark.parametrize("case", [case for case in KNOWN if not case.brief], ids=str)
def test_a_model_without_one_of_its_tensors_or_with_one_more_is_refused(case: Any, tmp_path: Path) -> None:
    case.build().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    lost = next(name for name in sorted(state) if ".1." in name and name.endswith("weight"))
    save_file({name: values for name, values in state.items() if name != lost}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing 1 of \d+ tensors \(.*\.1\."):
        load_folder(tmp_path)
    save_file({**state, lost.replace(".1.", ".99."): state[lost].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"left over 1, .*\(.*\.99\."):
        load_folder(tmp_path)
