"""What a served checkpoint says about compression: what is read, what is refused, and what a request may change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Fixed

from foveate import DART, EntropyPrune, Explainer, FastV, Method, Pool, PyramidDrop, Random, SparseVLM, TokenCarve, V2Drop
from foveate.errors import BudgetError, FoveateError, OptionError, RecordError, UnsupportedError
from foveate.methods.oracle import Oracle
from foveate.plugins.vllm.architectures import ARCHITECTURES, served
from foveate.plugins.vllm.settings import FEATURE_CACHE_MIB, ServingSettings

CARVE = {"method": "tokencarve", "keep": 128}
METHODS = st.sampled_from([TokenCarve(keep=7), FastV(keep=0.3, layer=5), Pool(keep=9), Random(keep=0.5), Explainer(keep=4)])


def test_a_method_is_enough() -> None:
    settings = ServingSettings.from_dict({"method": CARVE})
    assert settings.method == TokenCarve(keep=128, clamp=True)
    assert settings.most == settings.method
    assert settings.feature_cache_mib == FEATURE_CACHE_MIB


@given(METHODS, st.none() | st.floats(0.5, 1) | st.integers(9, 500), st.floats(0, 1e6) | st.integers(0, 99))
def test_settings_survive_a_configuration(method: Method, most: int | float | None, cache: float) -> None:
    if most is not None and type(most) is not type(method.keep):
        return
    settings = ServingSettings(method, most, cache)
    again = ServingSettings.from_dict(settings.to_dict())
    assert again == settings
    assert again.to_dict() == settings.to_dict()


@pytest.mark.parametrize("method", [Pool(keep=3, layer=4), Random(keep=3, layer=4)], ids=str)
def test_methods_that_read_no_layer_act_on_the_input(method: Method) -> None:
    assert ServingSettings(method).method.layer == 0


REFUSED: dict[str, tuple[Any, type[FoveateError], str]] = {
    "none": (None, RecordError, 'key "foveate".*is missing.*foveate export vllm.*--hf-overrides'),
    "a number": (3, RecordError, "is not the settings of a served model"),
    "a list": ([CARVE], RecordError, "is not the settings of a served model"),
    "no method": ({"max_keep": 3}, RecordError, "method"),
    "a method's name alone": ({"method": "tokencarve"}, RecordError, "method"),
    "an unknown method": ({"method": {"method": "tokencarf", "keep": 3}}, RecordError, "tokencarve"),
    "an unknown option": ({"method": {**CARVE, "kept": 3}}, RecordError, "kept"),
    "a newer format": ({"method": {**CARVE, "format": 2}}, RecordError, "format"),
    "a keep that is none": ({"method": {**CARVE, "keep": 0}}, RecordError, "keep=0"),
    "a schedule": ({"method": {"schedule": [CARVE]}}, UnsupportedError, "not a schedule"),
    "a budget that follows the image": ({"method": {**CARVE, "mass": 0.5}}, UnsupportedError, "depends on the image; a server must know"),
    "an unknown key": ({"method": CARVE, "max_kept": 3, "b": 1}, RecordError, "b, max_kept.*method, max_keep, feature_cache_mib"),
    "a text as max_keep": ({"method": CARVE, "max_keep": "200"}, RecordError, "max_keep"),
    "a truth as max_keep": ({"method": CARVE, "max_keep": True}, RecordError, "max_keep"),
    "a share as max_keep of tokens": ({"method": CARVE, "max_keep": 0.5}, BudgetError, "max_keep=0.5.*same unit as keep=128"),
    "a smaller max_keep": ({"method": CARVE, "max_keep": 127}, BudgetError, "max_keep=127 is smaller than keep=128"),
    "a negative cache": ({"method": CARVE, "feature_cache_mib": -1}, RecordError, "feature_cache_mib"),
    "a cache of NaN": ({"method": CARVE, "feature_cache_mib": math.nan}, RecordError, "feature_cache_mib should be a finite number"),
    "a set": ({"method": CARVE, "max_keep": {3}}, RecordError, "JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_settings_are_refused_in_one_line(name: str) -> None:
    data, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        ServingSettings.from_dict(data)
    assert "\n" not in str(caught.value)


def test_what_no_server_can_do_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not a schedule"):
        ServingSettings([TokenCarve(keep=3)])  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="depends on the image"):
        ServingSettings(Fixed(keep=3))
    with pytest.raises(UnsupportedError, match="known beforehand"):
        ServingSettings(Oracle(keep=3, relevance=(torch.ones(4),)))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (DART(keep=3), "needs keys, question_keys, which no server reads"),
        (EntropyPrune(keep=3), "needs queries"),
        (PyramidDrop(keep=3), "acts in several stages"),
        (SparseVLM(keep=3), "acts in several stages"),
        (V2Drop(keep=3), "acts in several stages"),
    ],
    ids=lambda value: value.name if isinstance(value, Method) else "",
)
def test_what_no_server_can_read_is_refused(method: Method, said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        ServingSettings(method)


@pytest.mark.parametrize("size", [-0.1, math.nan, math.inf, True, "3", None])
def test_a_cache_has_a_size(size: Any) -> None:
    with pytest.raises(OptionError, match=f"feature_cache_mib={size!r}"):
        ServingSettings(TokenCarve(keep=3), feature_cache_mib=size)


@pytest.mark.parametrize("most", [0, -3, True, 1.5, "9"])
def test_max_keep_is_a_budget(most: Any) -> None:
    with pytest.raises(BudgetError):
        ServingSettings(TokenCarve(keep=1), most)


def test_a_request_may_ask_for_less_and_up_to_the_limit() -> None:
    settings = ServingSettings(TokenCarve(keep=128), 256)
    assert settings.asked(None) is settings.method
    assert [settings.asked(keep).keep for keep in (1, 128, 256)] == [1, 128, 256]
    assert settings.most.keep == 256
    assert settings.asked(7) == TokenCarve(keep=7, clamp=True)


def test_without_a_limit_a_request_may_only_ask_for_less() -> None:
    with pytest.raises(BudgetError, match=r"keep=129 of this request is above the 128.*max_keep"):
        ServingSettings(TokenCarve(keep=128)).asked(129)


@pytest.mark.parametrize("keep", [257, 2**70, 0, -1, 0.5, 1.0, math.nan, True, "128", [128], {}], ids=repr)
def test_a_request_for_anything_else_than_so_many_tokens_is_refused(keep: Any) -> None:
    with pytest.raises(BudgetError, match="keep") as caught:
        ServingSettings(TokenCarve(keep=128), 256).asked(keep)
    assert "\n" not in str(caught.value)


def test_a_share_may_be_asked_for_where_the_server_counts_in_shares() -> None:
    settings = ServingSettings(TokenCarve(keep=0.25), 1.0)
    assert settings.asked(0.5).keep == 0.5
    whole = settings.asked(1).keep  # JSON does not tell 1 from 1.0
    assert (whole, type(whole)) == (1.0, float)


@pytest.mark.parametrize("keep", [2, 0, 1.01, -0.5, True, "0.5"], ids=repr)
def test_a_request_for_anything_else_than_a_share_is_refused(keep: Any) -> None:
    with pytest.raises(BudgetError):
        ServingSettings(TokenCarve(keep=0.25), 1.0).asked(keep)


def test_a_compressor_beside_the_checkpoint_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model" / "compressor").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = {"method": {"method": "explainer", "keep": 9, "compressor": "compressor"}}
    placed = ServingSettings.from_dict(data, tmp_path / "model").method
    assert isinstance(placed, Explainer)
    assert placed.compressor == str(tmp_path / "model" / "compressor")


@pytest.mark.parametrize("name", ["demo", "untrained", "someone/compressor", "/somewhere/compressor"])
def test_other_compressors_are_left_as_they_are(name: str, tmp_path: Path) -> None:
    for folder in (None, tmp_path):
        method = ServingSettings.from_dict({"method": {"method": "explainer", "keep": 9, "compressor": name}}, folder).method
        assert isinstance(method, Explainer)
        assert method.compressor == name


def test_architectures_have_served_names() -> None:
    for stock in ARCHITECTURES:
        assert served(stock) == served(served(stock)) == f"Foveate{stock}"
    with pytest.raises(KeyError, match="BertModel"):
        served("BertModel")
