"""Files of a VILA release that cannot be read as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoProcessor
from vila_release import save_release

import foveate.families  # noqa: F401 - registers the release's classes
from foveate.errors import UnsupportedError, UnsupportedModelError
from foveate.families.vila import processing


def test_a_sentencepiece_tokenizer_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_release(tmp_path / "release")
    (tmp_path / "release" / "llm" / "tokenizer.json").rename(tmp_path / "release" / "llm" / "tokenizer.model")
    monkeypatch.setattr(processing, "_installed", lambda module: module == "sentencepiece")
    with pytest.raises(UnsupportedError, match=r"tokenizer\.model.*pip install protobuf$"):
        AutoProcessor.from_pretrained(tmp_path / "release")


def test_features_are_not_taken_for_granted(tmp_path: Path) -> None:
    save_release(tmp_path / "release", mm_vision_select_feature=None)
    with pytest.raises(UnsupportedModelError, match="mm_vision_select_feature"):
        AutoConfig.from_pretrained(tmp_path / "release")
