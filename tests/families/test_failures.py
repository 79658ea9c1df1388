"""A call that fails, wherever it fails, changes nothing in the calls that follow it; nor does any call before."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from cases import CASES
from oracle import Prompt, prompt
from torch import Tensor
from transformers import LlavaModel
from zoo import Case

import foveate
from foveate import Method, View
from foveate.errors import FoveateError
from foveate.families import family_of

TESTED = ("llava_next", "llava_onevision", "smolvlm", "qwen2_5_vl", "qwen3_vl", "llava_llama")
FAMILIES = [case for case in CASES if str(case) in TESTED]
"""The cases that differ in what they must know about the pixels, and in what they add after the tower."""
OF_QUESTION = frozenset({"question_states", "question_keys", "question_embeddings"})
"""Signals that have no row for each visual token."""
HANDS_OVER = "mm_encoder_outputs" in inspect.signature(LlavaModel.forward).parameters
"""Whether `generate` encodes ahead of the forward pass."""


@dataclass(frozen=True)
class Everything(Method):
    """Ranks by all the signals there are, so that one of another call would change the choice."""

    keep: int | float = 0.5
    wants: frozenset[str] = frozenset()

    @property
    def needs(self) -> frozenset[str]:
        return self.wants

    def score(self, view: View) -> Tensor:
        values = {name: view.signal(name).double() for name in sorted(self.wants)}
        by_row = ("text_attention", "head_attention")
        rows = [value.mean(0) if name in by_row else value.reshape(len(view), -1).mean(1) for name, value in values.items()]
        return torch.stack([value / value.abs().max() for value in rows]).sum(0)


def everything(model: Any) -> Everything:
    return Everything(wants=family_of(model).gives(model) - OF_QUESTION)


def batches(case: Case) -> tuple[Prompt, Prompt]:
    several = case.several or case.image
    last: list[list[Any]] = [[4, case.image(2), 3]] if case.video is None else [[4, case.video(1), 3]]
    return prompt(case, [[3, case.image(0), 5], [2, several(1), 6, several(2), 2]]), prompt(case, last)


def forward(model: Any, inputs: dict[str, Any]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def generate(model: Any, inputs: dict[str, Any]) -> Tensor:
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    return torch.stack(model.generate(**inputs, max_new_tokens=2, **options).logits)


CALLS = {"generate": generate, "plain forward": forward}


# Ways to fail.


@contextmanager
def raising(module: Any, error: type[BaseException], *, behind: bool = False) -> Iterator[None]:
    def fail(*_: Any) -> None:
        raise error

    hook = module.register_forward_hook(fail) if behind else module.register_forward_pre_hook(fail)
    yield
    hook.remove()


def without_one_placeholder(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    ids = inputs["input_ids"].clone()
    tokens = torch.tensor(list(family_of(model).placeholders(model).values()))
    row, column = torch.isin(ids, tokens).nonzero()[0]
    ids[row, column] = 7
    return {**inputs, "input_ids": ids}


def of_another_width(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    name = next(name for name in inputs if name.startswith("pixel_values"))
    return {**inputs, name: inputs[name][..., :-1]}


@contextmanager
def broken(model: Any, way: str) -> Iterator[Callable[[Any, dict[str, Any]], dict[str, Any]]]:
    """Make the next call fail; yields what is to be done to its inputs."""
    family = family_of(model)
    layers, same = family.layers(model), lambda _, inputs: inputs
    if way == "bad pixels":
        yield of_another_width
    elif way == "a placeholder too few":
        yield without_one_placeholder
    elif way == "an error in the tower":
        with raising(next(iter(family.tower(model).children())), ZeroDivisionError, behind=True):
            yield same
    elif way == "an interrupt in the tower":
        with raising(next(iter(family.tower(model).children())), KeyboardInterrupt, behind=True):
            yield same
    elif way == "an error before the cut":
        with raising(layers[1].mlp, ZeroDivisionError):
            yield same
    elif way == "an interrupt before the cut":
        with raising(layers[1].input_layernorm, KeyboardInterrupt):
            yield same
    else:
        with raising(layers[3].mlp, KeyboardInterrupt):
            yield same


WAYS = (
    "bad pixels",
    "a placeholder too few",
    "an error in the tower",
    "an interrupt in the tower",
    "an error before the cut",
    "an interrupt before the cut",
    "an interrupt behind the cut",
)


@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_a_call_that_fails_changes_nothing_in_the_next(case: Case) -> None:
    model = case.build()
    one, other = batches(case)
    stock = forward(model, one.inputs)
    with foveate.compress(model, everything(model)) as handle:
        expected = {}
        for name, call in CALLS.items():
            expected[name] = (call(model, one.inputs), [image.plan.to_list() for image in handle.report.images])
        for way in WAYS:
            for failing, name in ((forward, "generate"), (generate, "plain forward")):
                with broken(model, way) as change, pytest.raises((Exception, KeyboardInterrupt)):
                    failing(model, change(model, other.inputs))
                logits, plans = CALLS[name](model, one.inputs), [image.plan.to_list() for image in handle.report.images]
                assert torch.equal(logits, expected[name][0]), (way, name)
                assert plans == expected[name][1], (way, name)
    assert torch.equal(forward(model, one.inputs), stock)


@pytest.mark.parametrize("case", FAMILIES[-3:], ids=str)
def test_an_interrupted_call_does_not_continue_in_the_decoder_alone(case: Case) -> None:
    model = case.build()
    family = family_of(model)
    decoder, (one, _) = family.decoder(model), batches(case)
    states = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = decoder(inputs_embeds=states).last_hidden_state
        with foveate.compress(model, everything(model)):
            with broken(model, "an interrupt before the cut"), pytest.raises(KeyboardInterrupt):
                model(**one.inputs)
            assert torch.equal(decoder(inputs_embeds=states).last_hidden_state, expected)


@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_consecutive_batches_and_features_of_earlier_calls_do_not_mix(case: Case) -> None:
    model = case.build()
    one, other = batches(case)
    alone = {}
    for given in (one, other):
        for name, call in CALLS.items():
            with foveate.compress(case.build(), everything(model)) as fresh:
                alone[id(given), name] = call(fresh.model, given.inputs), [image.plan.to_list() for image in fresh.report.images]
    encode = family_of(model).backbone(model).get_image_features
    images = {name: one.inputs[name] for name in one.inputs if name in inspect.signature(encode).parameters}
    with torch.no_grad():
        early = encode(**images, return_dict=True) if images else None
    with foveate.compress(model, everything(model)) as handle:
        for given, name in [(one, "generate"), (other, "generate"), (other, "plain forward"), (one, "plain forward"), (one, "generate")]:
            logits, plans = alone[id(given), name]
            assert torch.equal(CALLS[name](model, given.inputs), logits)
            assert [image.plan.to_list() for image in handle.report.images] == plans
            with torch.no_grad():
                family_of(model).backbone(model).get_image_features(**images, return_dict=True)  # and nothing made of it
        if HANDS_OVER:
            text = {name: value for name, value in one.inputs.items() if not name.startswith("pixel_values")}
            with pytest.raises(FoveateError, match=r"computed before|computed earlier|not known"):
                forward(model, {**text, "mm_encoder_outputs": {"image": early}})
            with torch.no_grad():
                now = family_of(model).backbone(model).get_image_features(**images, return_dict=True)
            logits, plans = alone[id(one), "plain forward"]
            assert torch.equal(forward(model, {**text, "mm_encoder_outputs": {"image": now}}), logits)
            assert [image.plan.to_list() for image in handle.report.images] == plans
        assert torch.equal(forward(model, one.inputs), alone[id(one), "plain forward"][0])
