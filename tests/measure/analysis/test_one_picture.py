"""Questions that share a picture are answered as `generate` answers them, whatever is compressed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")

import foveate
from foveate import DivPrune, Explainer, FastV, FirstLayerAttention, Method, Plan, Pool, Random, TokenCarve, View, demo
from foveate.demo.scenes import scene
from foveate.demo.scenes.labels import GRID
from foveate.measure.analysis.kept_states import KeptStates
from foveate.measure.analysis.one_picture import AskedAbout, OnePicture
from foveate.measure.scenes import SceneQuestion, balanced, evaluate, prompt_of, side_of, written_together

SEED, LAYERS = 3, 8


@cache
def loaded() -> tuple[Any, Any]:
    return demo.load()


@cache
def asked() -> tuple[SceneQuestion, ...]:
    shown = scene(SEED, "held_out")
    return tuple(SceneQuestion(SEED, shown.image, each) for each in shown.questions if each.family != "description")


@cache
def read() -> OnePicture:
    return OnePicture(*loaded(), asked()[0].image, [AskedAbout(each.question.text, each.question.answer) for each in asked()])


def generated(*, without_image: bool = False) -> list[bool]:
    return [answer.right for answer in evaluate(*loaded(), asked(), without_image=without_image)]


def test_the_uncompressed_model_is_right_where_generate_is() -> None:
    assert len(asked()) >= 6
    assert read().right == generated()
    assert read().ask_blind() == generated(without_image=True)
    assert sum(read().right) > sum(read().ask_blind())


@pytest.mark.parametrize(
    "method",
    [TokenCarve(96), TokenCarve(48, 5), FastV(32, 7), Pool(64, 3), DivPrune(24), DivPrune(24, 4), FirstLayerAttention(48), Explainer(48)],
    ids=repr,
)
def test_methods_choose_the_same_tokens_and_lose_the_same_answers(method: Method) -> None:
    plans = method.plans([read().view(method.layer, number) for number in range(len(asked()))])
    with foveate.compress(loaded()[0], method) as handle:
        answers = generated()
    assert [image.plan for image in handle.report.images] == plans
    assert read().ask(method.layer, plans)[0] == answers


@torch.no_grad()
def test_signals_are_those_of_a_whole_prompt() -> None:
    seen: list[View] = []

    class Spy(FastV):
        needs = frozenset({"last_attention", "head_attention", "attention_output"})

        def plans(self, views: Sequence[View]) -> list[Plan]:
            seen.extend(views)
            return super().plans(views)

    model, processor = loaded()
    for number, layer in ((0, 1), (3, 6)):
        inputs = processor(images=[asked()[0].image], text=[prompt_of(processor, asked()[number].question.text)], return_tensors="pt")
        with foveate.compress(model, Spy(1, layer)):
            model(**inputs)
        own, theirs = read().view(layer, number), seen.pop()
        assert (own.grid, own.text_after) == (theirs.grid, theirs.text_after)
        for name in ("states", "last_attention", "attention_output"):
            torch.testing.assert_close(getattr(own, name), getattr(theirs, name), atol=1e-4, rtol=1e-3)


def test_measured_states_are_those_that_enter_the_layer_of_the_cut() -> None:
    method, number = TokenCarve(48, 3), 1
    plans = method.plans([read().view(3, question) for question in range(len(asked()))])
    _, measured = read().ask(3, plans)
    with foveate.compress(loaded()[0], method) as handle, KeptStates(loaded()[0], [3]) as states:
        evaluate(*loaded(), [asked()[number]])
        found = {source: rows for _, source, _, rows in states.read(handle.report)}
    torch.testing.assert_close(measured[number][0], found["hidden_states"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(measured[number][1], found["attention_output"], atol=1e-4, rtol=1e-3)


def test_one_random_choice_for_all_questions_runs_its_tokens_once_and_answers_alike() -> None:
    views = [read().view(2, number, fingerprint=SEED) for number in range(len(asked()))]
    plans = Random(64).plans(views)
    assert len({tuple(plan.target.tolist()) for plan in plans}) == 1
    alone = [read().ask(2, [plan] * len(plans))[0][number] for number, plan in enumerate(plans)]
    assert read().ask(2, plans)[0] == alone


def test_small_scenes_are_scenes_of_their_own() -> None:
    small, again, large = scene(5, "held_out", 12), scene(5, "held_out", 12), scene(5, "held_out")
    assert small.image.size == (168, 168)
    assert small.image.tobytes() == again.image.tobytes() != large.image.crop((0, 0, 168, 168)).tobytes()
    assert small.questions == again.questions
    assert all(question.relevant.shape == (12, 12) for question in small.questions)
    assert large.image.tobytes() == scene(5, "held_out", GRID).image.tobytes()
    sides = {question.answer for question in (one.question for one in balanced(12, side=12)) if question.family == "side"}
    assert {"left", "right"} & sides
    for side in (11, 25):
        with pytest.raises(ValueError, match=f"is {side}"):
            scene(0, "held_out", side)


def test_answers_in_single_letters_are_joined_and_nothing_else_is() -> None:
    assert written_together(" k i t e ") == "kite"
    assert written_together("Top left") == "top left"
    assert written_together("a large red star and a sign that says k i t e.") == "a large red star and a sign that says kite."


def test_the_embedded_models_know_whole_scenes() -> None:
    assert side_of(loaded()[1]) == GRID
    assert side_of(demo.load(shape="qwen2-vl")[1]) == GRID
