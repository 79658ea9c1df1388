"""Beyond what a model itself does, the host waits for an accelerator twice in a compressed prefill, and never in a decoding step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers
from devices import FIRST, Everything, put, spread
from packaging.version import Version
from tiny import SPARSE, TOKENS, Fixed, batch, pixels, prompt, tiny_llava
from torch import Tensor
from waits import Waits, waits_on_a_gpu

import foveate
from foveate import (
    DART,
    EVS,
    CDPruner,
    DivPrune,
    EntropyPrune,
    Explainer,
    FastV,
    FirstLayerAttention,
    Method,
    MMTok,
    Oracle,
    Plan,
    Pool,
    PruMerge,
    PyramidDrop,
    Random,
    Scope,
    SparseVLM,
    TokenCarve,
    ToMe,
    TowerAttention,
    V2Drop,
    VidCom2,
    View,
    VisionZip,
)
from foveate.methods import methods
from foveate.methods.mass import MassMethod

MOST = 2
"""Waits of a prefill: for the prompt's ids and mask, and for the flag of all checks."""

METHODS: dict[str, Callable[[int], list[Method]]] = {
    "cdpruner": lambda batch: [CDPruner(keep=6)],
    "cdpruner, centred": lambda batch: [CDPruner(keep=6, centred=True)],
    "dart": lambda batch: [DART(keep=6)],
    "divprune": lambda batch: [DivPrune(keep=6)],
    "divprune, centred": lambda batch: [DivPrune(keep=6, centred=True)],
    "divprune of a later layer": lambda batch: [DivPrune(keep=6, layer=2)],
    "evs": lambda batch: [EVS(keep=6)],
    "entropyprune": lambda batch: [EntropyPrune(keep=6)],
    "entropyprune of layer 0": lambda batch: [EntropyPrune(keep=6, layer=0)],
    "explainer": lambda batch: [Explainer(keep=6, compressor="untrained")],
    "fastv": lambda batch: [FastV(keep=6)],
    "fastv of a share": lambda batch: [FastV(keep=0.3)],
    "firstlayerattention": lambda batch: [FirstLayerAttention(keep=6)],
    "mmtok": lambda batch: [MMTok(keep=6)],
    "oracle": lambda batch: [Oracle(keep=6, layer=2, relevance=[torch.rand(TOKENS)] * batch)],
    "pool": lambda batch: [Pool(keep=6)],
    "prumerge": lambda batch: [PruMerge(keep=6)],
    "pyramiddrop": lambda batch: [PyramidDrop(keep=6)],
    "random": lambda batch: [Random(keep=6)],
    "scope": lambda batch: [Scope(keep=6)],
    "sparsevlm": lambda batch: [SparseVLM(keep=6)],
    "tokencarve": lambda batch: [TokenCarve(keep=6)],
    "tokencarve by attention": lambda batch: [TokenCarve(keep=6, attention_weight=1.0)],
    "tome": lambda batch: [ToMe(keep=6)],
    "towerattention": lambda batch: [TowerAttention(keep=6)],
    "vidcom2": lambda batch: [VidCom2(keep=6)],
    "visionzip": lambda batch: [VisionZip(keep=6, contextual=0.5)],
    "v2drop": lambda batch: [V2Drop(keep=6)],
    "every signal": lambda batch: [Everything(keep=6)],
    "every signal at layer 0": lambda batch: [Everything(keep=6, layer=0)],
    "plans on the CPU": lambda batch: [Fixed(targets=(SPARSE,))],
    "schedule": lambda batch: [FastV(keep=9, layer=1), TokenCarve(keep=6, attention_weight=1.0, layer=2), FastV(keep=3, layer=3)],
}


MASS: dict[str, Callable[[int], list[Method]]] = {
    "explainer": lambda batch: [Explainer(keep=6, mass=0.3, compressor="untrained")],
    "fastv": lambda batch: [FastV(keep=6, mass=0.3)],
    "firstlayerattention": lambda batch: [FirstLayerAttention(keep=6, mass=0.3, at_least=2)],
    "oracle": lambda batch: [Oracle(keep=6, mass=0.3, layer=2, relevance=[torch.rand(TOKENS)] * batch)],
    "tokencarve by attention": lambda batch: [TokenCarve(keep=6, mass=0.3, attention_weight=1.0)],
    "tokencarve": lambda batch: [TokenCarve(keep=6, mass=0.3, information="fast")],
    "towerattention": lambda batch: [TowerAttention(keep=6, mass=0.3)],
    "pyramiddrop, one stage": lambda batch: [PyramidDrop(keep=6, mass=0.3, at=(2,))],
    "pyramiddrop, two stages": lambda batch: [PyramidDrop(keep=6, mass=0.3, at=(1, 2))],
    "schedule": lambda batch: [FastV(keep=9, mass=0.6, layer=1), FastV(keep=0.5, mass=0.3, layer=2)],
    "bounds that leave no choice": lambda batch: [FastV(keep=6, mass=0.3, at_least=6)],
}
DECISIONS = {"pyramiddrop, two stages": 2, "schedule": 2, "bounds that leave no choice": 0}
"""How often a budget that follows the image is read in a prefill, where it is not once."""


def prompts(rows: int) -> dict[str, Tensor]:
    """Prompts of unequal lengths, if there are several; the last two are one sample."""
    lengths = [5 + (min(row, rows - 2) if rows > 1 else 0) for row in range(rows)]
    inputs = batch([prompt(3, "image", length, seed=length) for length in lengths])
    pictures = pixels(rows)
    pictures[-1] = pictures[max(rows - 2, 0)]
    return {**inputs, "pixel_values": pictures}


def prefill(model: Any, rows: int) -> tuple[Waits, Any]:
    with torch.no_grad(), Waits() as waits:
        out = model(**put(prompts(rows), FIRST))
    return waits, out


def counted(chosen: list[Method], *, rows: int, layers: int) -> tuple[list[str], list[str], Any]:
    """The waits of a prefill without compression and with it and the report."""
    model = spread(tiny_llava(layers=layers), range(0))
    prefill(model, rows)
    plain, _ = prefill(model, rows)
    with foveate.compress(model, chosen) as handle:
        prefill(model, rows)
        waits, _ = prefill(model, rows)
        with Waits():
            report = handle.report
    return plain.found, waits.found, report


def test_every_registered_method_is_counted() -> None:
    assert set(methods()) <= METHODS.keys()


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", METHODS)
def test_a_prefill_waits_twice(name: str, rows: int) -> None:
    chosen = METHODS[name](rows - 1 if rows > 1 else 1)
    plain, compressed, report = counted(chosen, rows=rows, layers=4)
    ours = [each for each in compressed if "foveate/" in each]
    assert len(ours) <= MOST, ours
    assert len(compressed) <= len(plain) + MOST, compressed
    assert all(image.tokens_after < TOKENS for image in report.images)
    assert len(report.images) == rows


@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", MASS)
def test_a_budget_that_follows_the_image_waits_once_more_for_all_images(name: str, rows: int) -> None:
    chosen = MASS[name](rows - 1 if rows > 1 else 1)
    plain, compressed, report = counted(chosen, rows=rows, layers=4)
    ours = [each for each in compressed if "foveate/" in each]
    assert len(ours) <= MOST + DECISIONS.get(name, 1), ours
    assert len(compressed) <= len(plain) + MOST + DECISIONS.get(name, 1), compressed
    assert all(1 <= image.tokens_after <= 6 for image in report.images)
    assert len(report.images) == rows


def test_every_method_with_a_mass_is_counted() -> None:
    known = {name for name, method in methods().items() if issubclass(method, MassMethod)}
    assert known == {MASS[name](1)[0].name for name in MASS}


@pytest.mark.parametrize("name", ["fastv", "pool", "explainer"])
def test_deeper_models_wait_no_longer(name: str) -> None:
    _, shallow, _ = counted(METHODS[name](1), rows=1, layers=4)
    _, deep, _ = counted(METHODS[name](1), rows=1, layers=32)
    assert len([each for each in deep if "foveate/" in each]) == len([each for each in shallow if "foveate/" in each])


@pytest.mark.parametrize("masked", [True, False], ids=["masked", "unmasked"])
@pytest.mark.parametrize("trim", [True, False], ids=["trimmed", "untrimmed"])
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_decoding_step_waits_for_nothing(rows: int, trim: bool, masked: bool, attention: str) -> None:
    if attention == "eager" and not trim and Version(transformers.__version__) < Version("5.24"):
        pytest.skip("before 5.24 transformers copies a number from the host for each eager mask, and there are two masks here")
    model = spread(tiny_llava(attention=attention), range(0))
    whole = put(prompts(rows)["attention_mask"], FIRST)
    mask = whole if masked else None

    def step(cache: Any, grown: Tensor | None) -> list[str]:
        with torch.no_grad(), Waits() as waits:
            given = {} if grown is None else {"attention_mask": torch.cat([grown, grown[:, -1:]], dim=1)}
            model(input_ids=put(torch.full((rows, 1), 5), FIRST), past_key_values=cache, **given)
        return waits.found

    # A cut cache knows its padding, and gives the decoder the mask that a caller omitted.
    own = step(prefill(model, rows)[1].past_key_values, whole if rows > 1 else mask)
    with foveate.compress(model, FastV(keep=6), trim_early_layers=trim):
        found = step(prefill(model, rows)[1].past_key_values, mask)
    assert not [each for each in found if "foveate/" in each]
    assert len(found) <= len(own)


def test_beams_are_followed_without_a_wait() -> None:
    model = spread(tiny_llava(), range(0))
    with foveate.compress(model, FastV(keep=6)):
        cache = prefill(model, 8)[1].past_key_values
        before = cache.layers[0].foveate
        assert all(layer.foveate is before for layer in cache.layers)
        with Waits() as waits:
            cache.reorder_cache(put(torch.tensor([1, 0, 3, 2, 5, 4, 7, 6]), FIRST))
        assert not waits.found
    after = cache.layers[0].foveate
    assert after is not before
    assert all(layer.foveate is after for layer in cache.layers)


@dataclass(frozen=True)
class Waiting(Method):
    """As a method that somebody wrote without thinking of accelerators."""

    way: str = "item"

    def plan(self, view: View) -> Plan:
        score = view.states.square().mean(1)
        if self.way == "item":
            assert score[0].item() >= 0
        elif self.way == "bool":
            assert (score >= 0).all()
        elif self.way == "index":
            assert len(score[score >= 0])
        elif self.way == "nonzero":
            assert len((score >= 0).nonzero())
        else:
            score = score + torch.ones(len(score)).to(score.device)
        return Plan.deferred(torch.arange(len(view), device=score.device), len(view))

    def budget(self, tokens: int, frames: int = 1) -> int:
        return tokens


@pytest.mark.parametrize("way", ["item", "bool", "index", "nonzero", "upload"])
def test_a_wait_is_seen(way: str) -> None:
    _, found, _ = counted([Waiting(keep=1.0, way=way)], rows=1, layers=4)
    assert len([each for each in found if "foveate/" in each or "test_waits" in each]) == MOST + 1


def test_the_report_is_what_is_read_late() -> None:
    model = spread(tiny_llava(), range(0))
    with foveate.compress(model, FastV(keep=6)) as handle:
        prefill(model, 1)
        with Waits() as first:
            report = handle.report
        with Waits() as second:
            assert handle.report is report
            assert copy.deepcopy(handle.report).images[0].plan == report.images[0].plan
    assert first.found
    assert not second.found


def nan_from(model: Any, row: int) -> Any:
    """Spoils what one row's attention sees before layer 2."""

    def spoil(module: Any, args: Any) -> Any:
        states = args[0].clone()
        states[row, -1] = float("nan")
        return (states, *args[1:])

    return model.model.language_model.layers[1].register_forward_pre_hook(spoil)


@pytest.mark.parametrize("far", [True, False], ids=["accelerator", "CPU"])
def test_a_late_error_names_the_picture_and_leaves_the_cache_as_it_was(far: bool) -> None:
    model = tiny_llava()
    inputs = batch([prompt(3, "image", 5), prompt(3, "image", 5, seed=1), prompt(3, "image", 5, seed=2)])
    if far:
        model, inputs = spread(model, range(0)), put(inputs, FIRST)
    with foveate.compress(model, FastV(keep=6)), Waits(), torch.no_grad():
        cache = model(**inputs).past_key_values
        held = [layer.keys.shape[2] for layer in cache.layers]
        hook = nan_from(model, row=1)
        with pytest.raises(foveate.errors.InputError, match=r"last_attention contains NaN.*\(FastV\(keep=6\): row 1, image 0\)"):
            model(**inputs)
        fresh = type(cache)(config=model.config.get_text_config())
        with pytest.raises(foveate.errors.InputError, match="row 1, image 0"):
            model(**inputs, past_key_values=fresh)
        hook.remove()
        if far:
            assert [layer.get_seq_length() for layer in fresh.layers] == [0, 0, 0, 0]
            again = model(**inputs, past_key_values=fresh)
            assert [layer.keys.shape[2] for layer in again.past_key_values.layers] == held


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize("name", METHODS)
def test_torch_counts_no_more_on_a_gpu(name: str, rows: int) -> None:
    model = tiny_llava(layers=8).to("cuda")
    inputs = {key: value.to("cuda") for key, value in prompts(rows).items()}

    def prefill_and_step() -> tuple[list[str], list[str]]:
        with torch.no_grad(), waits_on_a_gpu() as first:
            out = model(**inputs)
        token = torch.full((rows, 1), 5, device="cuda")
        mask = torch.cat([inputs["attention_mask"], inputs["attention_mask"][:, -1:]], dim=1)
        with torch.no_grad(), waits_on_a_gpu() as second:
            model(input_ids=token, attention_mask=mask, past_key_values=out.past_key_values)
        return first, second

    prefill_and_step()
    plain, plain_step = prefill_and_step()
    with foveate.compress(model, METHODS[name](rows - 1 if rows > 1 else 1)):
        prefill_and_step()
        found, step = prefill_and_step()
    assert len(found) <= len(plain) + MOST, found
    assert len(step) <= len(plain_step), step
