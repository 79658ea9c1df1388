"""Chat templates are programs that come with a checkpoint: they run within limits, and their output equals that of transformers."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveate import demo
from foveate.chat.processors import Bounds, chat_texts
from foveate.chat.processors.bounded import OverBoundsError, WorkError, run_bounded
from foveate.errors import ProcessorError

SOON = Bounds(seconds=0.05)
LONG = 10**8
"""Steps of a loop: some seconds of a processor's time, and far more than it gets."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere work is not bounded")


def count() -> int:
    return sum(1 for _ in range(LONG))


def ends_its_process() -> None:
    os._exit(3)


def never_answers() -> None:
    while True:
        signal.pause()


@pytest.mark.parametrize(
    ("work", "bounds", "told"),
    [
        (count, SOON, "0.05 seconds"),
        (lambda: len(bytearray(2**29)), Bounds(memory=2**26), "64 MiB of memory"),
        (lambda: "x" * 2000, Bounds(result=1000), "1000 bytes of text"),
        (ends_its_process, Bounds(), "it ended its process"),
        (never_answers, Bounds(patience=0.2), "0.2 seconds of waiting"),
    ],
    ids=["time", "memory", "text", "end", "waiting"],
)
def test_work_that_takes_more_than_it_may_is_stopped(work: Callable[[], Any], bounds: Bounds, told: str) -> None:
    with pytest.raises(OverBoundsError, match=told):
        run_bounded(work, bounds)


def test_work_within_its_bounds_gives_its_result_and_changes_nothing_here() -> None:
    seen: list[int] = []

    def work() -> dict[str, Any]:
        seen.append(1)
        print("this is not shown")
        return {"text": "Grüße, 世界", "numbers": [1, 2.5, None]}

    assert run_bounded(work, Bounds()) == {"text": "Grüße, 世界", "numbers": [1, 2.5, None]}
    assert seen == []


def test_errors_of_the_work_are_reported_with_type_and_text() -> None:
    with pytest.raises(WorkError, match=r"^KeyError: 'x'$"):
        run_bounded(lambda: {}["x"], Bounds())


def test_no_child_is_left_when_work_is_stopped() -> None:
    children = Path("/proc/thread-self/children")
    before = children.read_text()
    with pytest.raises(OverBoundsError):
        run_bounded(never_answers, Bounds(patience=0.1))
    assert children.read_text() == before


def talk(*texts: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]} for text in texts]


@pytest.mark.parametrize("shape", demo.FOLDERS)
def test_a_template_gives_the_same_text_in_its_process_as_here(shape: str) -> None:
    _, processor = demo.load(shape=shape)
    conversations = [talk("what does the sign say?"), talk("how many?", "and 世界?")]
    expected = [processor.apply_chat_template(each, add_generation_prompt=True, tokenize=False) for each in conversations]
    assert chat_texts(processor, conversations) == expected


@pytest.mark.parametrize(
    ("template", "bounds", "told"),
    [
        ("{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}", SOON, "more than 0.05 seconds"),
        ("{% set text = 'long ' * 200 %}{{ text }}", Bounds(result=500), "more than 500 bytes"),
        ("{% set text = 'long ' * 60000000 %}{{ text | length }}", Bounds(memory=2**26), "more than 64 MiB"),
        ("{{ nobody.knows.it }}", Bounds(), "UndefinedError"),
        ("x" * (2**20 + 1), Bounds(), "1048577 characters"),
    ],
    ids=["time", "text", "memory", "error", "length"],
)
def test_a_template_that_takes_too_much_or_fails_is_reported_in_one_line(template: str, bounds: Bounds, told: str) -> None:
    _, processor = demo.load()
    processor.chat_template = template
    with pytest.raises(ProcessorError, match=told) as refused:
        chat_texts(processor, [talk("what ?")], bounds)
    assert "chat template" in str(refused.value)
    assert "LlavaProcessor" in str(refused.value)
    assert "\n" not in str(refused.value)
