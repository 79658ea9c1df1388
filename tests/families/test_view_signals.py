"""What methods are shown of the tower and the decoder, against plain computations on the full model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from oracle import Prompt, prompt
from tiny import tiny_llava
from torch import Tensor
from transformers import LlavaModel
from zoo import Case, square_image
from zoo_qwen import CASES as QWEN

import foveate
from foveate import FastV, Method, Plan, View
from foveate.errors import SignalError
from foveate.families import family_of
from foveate.families.base import DECODER_SIGNALS, TOWER_SIGNALS
from foveate.view import NOT_AT_THE_INPUT

CASES = [Case("llava", "llava", tiny_llava, square_image), *(case for case in QWEN if case.model_type != "qwen3_vl_moe")]
IDS = [case.model_type for case in CASES]
HANDS_OVER = "mm_encoder_outputs" in inspect.signature(LlavaModel.forward).parameters
"""Whether `generate` encodes ahead. Where it does not, it gives the copies that beams make the wrong ones of several images."""


@dataclass(frozen=True)
class Spy(Method):
    """Keeps every token, and what it was shown."""

    keep: int | float = 1.0
    seen: list[View] = field(default_factory=list)
    wants: frozenset[str] = DECODER_SIGNALS | TOWER_SIGNALS

    @property
    def needs(self) -> frozenset[str]:
        return self.wants - (NOT_AT_THE_INPUT if self.layer == 0 else frozenset())

    def plan(self, view: View) -> Plan:
        self.seen.append(view)
        return Plan.identity(len(view))


def batch(case: Case, padding: str = "left") -> Prompt:
    return prompt(case, [[3, case.image(0), 5], [2, case.image(1), 1, case.image(2), 4]], padding=padding)


def views(model: Any, given: Prompt, layer: int, *, generate: bool = False) -> list[View]:
    spy = Spy(layer=layer)
    with foveate.compress(model, spy), torch.no_grad():
        if generate:
            model.generate(**given.inputs, max_new_tokens=1, num_beams=2 if HANDS_OVER else 1, do_sample=False)
        else:
            model(**given.inputs)
    return spy.seen


@contextmanager
def watching(module: Any) -> Iterator[list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    hook = module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    yield calls
    hook.remove()


@contextmanager
def queried(attention: Any) -> Iterator[list[Tensor]]:
    """What a projection of queries gives, (b, s, heads * c); nothing where the module normalises them or has none."""
    found: list[Tensor] = []
    if hasattr(attention, "q_norm") or not hasattr(attention, "q_proj"):
        yield found
        return
    hook = attention.q_proj.register_forward_hook(lambda _, args, output: found.append(output))
    yield found
    hook.remove()


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_attention_rows_and_states_of_the_decoder(case: Case, layer: int) -> None:
    model = case.build()
    model.set_attn_implementation("eager")
    for padding in ("left", "right"):
        given = batch(case, padding)
        with (
            torch.no_grad(),
            watching(family_of(model).layers(model)[layer]) as entered,
            watching(family_of(model).layers(model)[0]) as first,
            watching(family_of(model).layers(model)[max(layer - 1, 0)]) as before,
            queried(family_of(model).attention(family_of(model).layers(model)[max(layer - 1, 0)])) as queries,
        ):
            full = model(**given.inputs, output_attentions=True, use_cache=True)
        by_head, ahead = full.attentions[max(layer - 1, 0)], full.attentions[layer].mean(1)
        keys = full.past_key_values.layers[max(layer - 1, 0)].keys
        maps = by_head.mean(1)
        places = [(row, place) for row, places in enumerate(given.columns) for place in places]
        for view, (row, place) in zip(views(model, given, layer), places, strict=True):
            real = given.inputs["attention_mask"][row].nonzero().squeeze(1)
            # A Qwen image is followed by the token that ends it, which is text.
            asked = real[real > given.columns[row][-1][-1]]
            close = {"atol": 1e-6, "rtol": 1e-5}
            torch.testing.assert_close(view.signal("text_attention"), maps[row, asked][:, place], **close)
            torch.testing.assert_close(view.signal("head_attention"), by_head[row][:, asked].mean(1)[:, place], **close)
            torch.testing.assert_close(view.signal("last_attention"), maps[row, real[-1], place], **close)
            torch.testing.assert_close(view.signal("question_states"), entered[0][0][0][row, asked], **close)
            torch.testing.assert_close(view.signal("projected_states"), first[0][0][0][row, place], **close)
            torch.testing.assert_close(view.signal("question_embeddings"), first[0][0][0][row, asked], **close)
            torch.testing.assert_close(view.signal("next_attention"), ahead[row, real[-1], place], **close)
            torch.testing.assert_close(view.signal("keys"), keys[row, :, place].transpose(0, 1), **close)
            torch.testing.assert_close(view.signal("question_keys"), keys[row, :, asked].transpose(0, 1), **close)
            assert view.signal("queries").shape == (len(place), by_head.shape[1], keys.shape[-1])
            if queries:
                # Before the rotary embedding, which turns each vector and keeps its length.
                truth = queries[0][row, place].view(len(place), by_head.shape[1], -1).norm(dim=-1)
                torch.testing.assert_close(view.signal("queries").norm(dim=-1), truth, atol=1e-5, rtol=1e-4)
            if layer > 0:
                torch.testing.assert_close(view.signal("earlier_states"), before[0][0][0][row, place], **close)


@pytest.mark.parametrize("generate", [False, True], ids=["plain forward", "generate"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_tower_features_become_what_enters_the_language_model(case: Case, generate: bool) -> None:
    model, family = case.build(), family_of(case.build())
    given = batch(case)
    found = views(model, given, 2, generate=generate)
    assert [view.grid for view in found] == [piece.parts[0] for row in given.pieces for piece in row]
    for view in found:
        states = view.signal("tower_states")
        patches = states.reshape(-1, states.shape[1] // (1 if case.family == "llava" else 4))
        with torch.no_grad():
            projected = family.projector(model)(patches)
        torch.testing.assert_close(projected, view.signal("projected_states"), atol=1e-5, rtol=1e-4)


def received(model: Any, case: Case, given: Prompt) -> list[Tensor]:
    """Full maps of the tower, in the plainest way, per image."""
    module = family_of(model).tower_attention(model)
    if case.family == "llava":
        with torch.no_grad():
            maps = model.model.vision_tower(given.inputs["pixel_values"], output_attentions=True).attentions[0]
        return list(maps[:, :, 0, 1:].mean(1))
    with torch.no_grad(), watching(module) as calls:
        model(**given.inputs)
    (args, kwargs), home = calls[0], sys.modules[type(module).__module__]
    states = args[0] if args else kwargs["hidden_states"]
    with torch.no_grad():
        query, key, _ = module.qkv(states).reshape(len(states), 3, module.num_heads, -1).unbind(1)
        query, key = home.apply_rotary_pos_emb_vision(query, key, *kwargs["position_embeddings"])
    lengths = kwargs["cu_seqlens"].diff().tolist()
    rows = []
    for q, k in zip(query.split(lengths), key.split(lengths), strict=True):
        maps = (q.transpose(0, 1) @ k.permute(1, 2, 0) * q.shape[-1] ** -0.5).softmax(-1)
        rows.append(maps.mean((0, 1)).view(-1, 4).mean(1))
    together = torch.cat(rows)
    if case.model_type == "qwen2_5_vl":
        together = together[window_order(model, given).argsort()]
    return list(together.split([len(place) for places in given.columns for place in places]))


def window_order(model: Any, given: Prompt) -> Tensor:
    tower = model.model.visual
    if hasattr(tower, "get_window_index"):
        order = tower.get_window_index(given.inputs["image_grid_thw"])[0]
        return torch.as_tensor(order)
    from transformers.vision_utils import get_vision_window_index

    sizes = {"spatial_merge_size": 2, "window_size": tower.window_size, "patch_size": tower.patch_size}
    return get_vision_window_index(given.inputs["image_grid_thw"], **sizes)[0]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_attention_that_tokens_receive_in_the_tower(case: Case) -> None:
    model = case.build()
    model.set_attn_implementation("eager")
    given = batch(case)
    expected = received(model, case, given)
    model.set_attn_implementation("sdpa")
    for view, truth in zip(views(model, given, 2), expected, strict=True):
        torch.testing.assert_close(view.signal("tower_attention"), truth, atol=1e-7, rtol=1e-5)
    assert all("foveate_probes" not in vars(module.config) for module in model.modules() if hasattr(module, "config"))


def test_looking_ahead_at_the_first_layer_computes_no_attention_and_fills_no_cache() -> None:
    model = tiny_llava()
    given = batch(CASES[0])
    ran: list[int] = []
    hook = family_of(model).layers(model)[0].mlp.register_forward_hook(lambda *_: ran.append(1))
    with foveate.compress(model, FastV(keep=4, layer=0)), torch.no_grad():
        out = model(**given.inputs)
    hook.remove()
    assert len(ran) == 1
    assert out.past_key_values.layers[0].keys.shape[2] == 2 + 1 + 4 + 8


@pytest.mark.skipif(not HANDS_OVER, reason="this transformers takes no features")
def test_features_of_an_earlier_time_carry_no_signals() -> None:
    model, given = tiny_llava(), batch(CASES[0])
    features = model.model.get_image_features(pixel_values=given.inputs["pixel_values"], return_dict=True)
    text = {name: value for name, value in given.inputs.items() if name != "pixel_values"}
    with foveate.compress(model, Spy(wants=frozenset({"tower_attention"}))):
        with pytest.raises(SignalError, match=r"tower_attention.*computed before"):
            model(**text, mm_encoder_outputs={"image": features})
