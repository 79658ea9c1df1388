"""The model that lmms-eval finds under the name "foveate"."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from foveate import demo
from foveate.chat.models import Subject
from foveate.errors import BudgetError, FoveateError, InputError, UnknownNameError, UnsupportedError

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")

from lmms_eval.models import get_model
from lmms_eval.models.model_utils.gen_metrics import reset_logged_metrics, summarize_logged_metrics

from foveate.plugins.lmms_eval_model import FoveateModel

SCENE = demo.scene(5, "held_out")


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject("demo", *demo.load())


def request(number: int, **options: Any) -> Any:
    """A request as lmms-eval's chat tasks make it, about the question with that number."""

    def messages(question: Any) -> list[dict[str, Any]]:
        shown = [{"type": "image", "url": SCENE.image}] if options.get("shown", True) else []
        return [{"role": "user", "content": [*shown, {"type": "text", "text": question.text}]}]

    given = {"max_new_tokens": 12, **options.get("given", {})}
    return SimpleNamespace(args=(SCENE.questions[number].text, messages, given, number, "scenes", "test"), task_name="scenes")


def model(subject: Subject, **arguments: Any) -> FoveateModel:
    made = FoveateModel(subject=subject, **arguments)
    made.task_dict["scenes"] = {"test": SCENE.questions}
    return made


def test_lmms_eval_finds_the_model_by_its_entry_point() -> None:
    assert get_model("foveate") is FoveateModel


def test_arguments_are_taken_as_lmms_eval_writes_them(subject: Subject) -> None:
    text = "pretrained=demo,method=tokencarve,keep=0.25,layer=3,attention_weight=0.5"
    made = FoveateModel.create_from_arg_string(text, {"batch_size": 4, "device": "cpu", "max_batch_size": None})
    assert str(made.method) == "TokenCarve(keep=0.25, layer=3)"
    assert made.batch_size == 4


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"method": "tokencarf", "keep": 8}, UnknownNameError, "did you mean 'tokencarve'"),
        ({"method": "tokencarve"}, InputError, "needs keep"),
        ({"method": "tokencarve", "keep": 0}, InputError, "at least 1"),
        ({"method": "tokencarve", "keep": "many"}, InputError, "neither a number"),
        ({"method": "tokencarve", "keep": 8, "attention_wieght": 0.1}, InputError, "did you mean 'attention_weight'"),
        ({"keep": 8}, InputError, "not an option of the full model"),
        ({"image": "gray"}, InputError, "seen or blind"),
        ({"batch_size": "auto"}, InputError, "whole number"),
        ({"method": "tokencarve", "keep": 8, "layer": 90}, FoveateError, "90"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(subject: Subject, arguments: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        FoveateModel(subject=subject, **arguments)


def test_answers_come_in_the_order_of_the_requests_for_any_batch_size(subject: Subject) -> None:
    requests = [request(number, shown=number != 2) for number in range(5)]
    alone = [result.text for result in model(subject, method="fastv", keep=200).generate_until(requests)]
    together = [result.text for result in model(subject, method="fastv", keep=200, batch_size=4).generate_until(requests)]
    assert together == alone
    assert len(set(alone)) > 2


def test_tokens_and_times_are_among_the_throughput_figures(subject: Subject) -> None:
    reset_logged_metrics()
    results = model(subject, method="fastv", keep=64, batch_size=2).generate_until([request(0), request(1)])
    found = summarize_logged_metrics()
    assert (found["avg_visual_tokens"], found["avg_tokens_at_the_cut"], found["avg_mean_tokens_over_layers"]) == (576, 64, 192)
    assert found["avg_method_seconds"] > 0
    assert [result.token_counts.input_tokens for result in results] > [576, 576]


def test_an_answer_ends_where_the_task_says(subject: Subject) -> None:
    (whole,) = model(subject).generate_until([request(0)])
    (ended,) = model(subject).generate_until([request(0, given={"until": [whole.text[2:]]})])
    assert ended.text == whole.text[:2]


def test_a_crash_is_raised_with_what_was_asked_and_is_no_answer(subject: Subject) -> None:
    with pytest.raises(BudgetError, match="900") as caught:
        model(subject, method="fastv", keep=900).generate_until([request(3)])
    assert "scenes 3" in caught.value.__notes__[0]


def test_several_processes_are_refused(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnsupportedError, match="one process"):
        FoveateModel(subject=subject)


def test_tasks_that_do_not_generate_are_refused(subject: Subject) -> None:
    with pytest.raises(UnsupportedError, match="likelihood"):
        model(subject).loglikelihood([request(0)])
    with pytest.raises(UnsupportedError, match="several rounds"):
        model(subject).generate_until_multi_round([request(0)])


def test_a_model_of_its_own_is_released_and_one_passed_in_stays(subject: Subject) -> None:
    handed_in = model(subject)
    handed_in.clean()
    assert handed_in.generate_until([request(0)])
    own = FoveateModel(device="cpu")
    own.task_dict["scenes"] = {"test": SCENE.questions}
    own.clean()
    with pytest.raises(UnsupportedError, match="released after"):
        own.generate_until([request(0)])
