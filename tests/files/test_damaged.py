"""Files that were changed in one place are read as they are, or refused in one line with the file's name: never another error."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import Record, records

from foveate.errors import FoveateError

MARK = "@here@"
KINDS = (
    "report", "relevance", "compressor", "bench", "results", "compared", "analysis", "cell", "run", "analysed_cell", "labels", "shard",
    "training_state", "demo_checkpoint", "demo_recipe", "demo_figures", "demo_log", "added_tokens",
)  # fmt: skip
VALUES = (
    "null", "true", "false", "0", "1", "-1", "2", "1.5", "-0.0", "1e300", "1e-300", "1e999", "NaN", "-Infinity", "9" * 30,
    "9" * 5000, "1e5", '""', '"x"', '"<b>"', '"\\ud800"', '"\\u0000"', '"' + "a" * 3000 + '"', "[]", "{}", "[[]]", '{"a": 1}', "[0]",
    "[-1, 0, 1]", "[null]", "[" * 70 + "]" * 70, "[" * 100_000, '{"a": 1, "a": 2}', "",
)  # fmt: skip
"""What one value becomes in the file."""
CHANGES = ("drop", "rename", "double", "repeat key", "cut off", *VALUES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    return dict(records(tmp_path_factory.mktemp("records")))


def places(data: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The keys that lead to each value."""
    yield at
    for name, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*at, name))


def changed(text: str, place: int, change: str) -> str:
    """The text with one change at one of its values."""
    if change == "cut off":
        return text[: place % len(text)]
    data = json.loads(text)
    every = list(places(data))
    at = every[place % len(every)]
    if not at:
        return change if change in VALUES else text
    holder = data
    for name in at[:-1]:
        holder = holder[name]
    last: Any = at[-1]
    if change == "drop":
        del holder[last]
    elif change == "rename" and isinstance(holder, dict):
        holder[f"{last}!"] = holder.pop(last)
    elif change == "double" and isinstance(holder, list):
        holder.insert(last, copy.deepcopy(holder[last]))
    elif change == "repeat key" and isinstance(holder, dict):
        value = json.dumps(holder[last])
        holder[last] = MARK
        return json.dumps(data).replace(json.dumps(MARK), f"{value}, {json.dumps(last)}: {value}")
    elif change in VALUES:
        holder[last] = MARK
        return json.dumps(data).replace(json.dumps(MARK), change)
    return json.dumps(data)


def agrees(found: Any, text: Any) -> bool:
    """Whether what was read equals what is in the file, as far as both have it."""
    if isinstance(found, dict) and isinstance(text, dict):
        return all(agrees(found[name], text[name]) for name in found.keys() & text.keys())
    if isinstance(found, list) and isinstance(text, list):
        return len(found) == len(text) and all(map(agrees, found, text))
    if isinstance(found, float) and isinstance(text, int | float) and not isinstance(text, bool):
        return math.isclose(found, text, rel_tol=1e-6, abs_tol=1e-30)  # relevance is kept in single precision
    return bool(found == text) and isinstance(found, bool) == isinstance(text, bool)


def refusal(read: Callable[[], Any]) -> tuple[Any, str | None]:
    """What is read, or the error in words."""
    try:
        return read(), None
    except FoveateError as error:
        return None, str(error)


def check(record: Record, text: str) -> bool:
    """Read a changed file; whether it was refused."""
    record.write(text)
    found, refused = refusal(record.read)
    if refused is None:
        assert agrees(found, json.loads(text))
        return False
    assert record.path.name in refused or str(record.path.parent) in refused
    assert "\n" not in refused
    assert len(refused) < 2000
    return True


def test_every_kind_is_there_and_reads_as_it_is(made: dict[str, Record]) -> None:
    assert set(made) == set(KINDS)
    for record in made.values():
        assert not check(record, record.text)


@pytest.mark.parametrize("kind", KINDS)
@settings(derandomize=True, deadline=None, database=None, max_examples=80)
@given(place=st.integers(0, 2**20), change=st.sampled_from(CHANGES))
def test_a_file_that_was_changed_in_one_place_is_read_or_refused(made: dict[str, Record], kind: str, place: int, change: str) -> None:
    check(made[kind], changed(made[kind].text, place, change))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pipe_in_the_place_of_a_file_is_not_opened(made: dict[str, Record], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = made[kind]
    record.path.unlink(missing_ok=True)  # a change that was tried before may have left it without one
    os.mkfifo(record.path)
    opened = []
    plain = os.open
    monkeypatch.setattr(os, "open", lambda *given, **more: opened.append(given[0]) or plain(*given, **more))
    try:
        found, refused = refusal(record.read)
    finally:
        record.path.unlink()
        record.write(record.text)
    assert str(record.path) not in map(str, opened)
    # A tokenizer without a list of added tokens is not a damaged one.
    assert found == {"ids": {}} if kind == "added_tokens" else refused is not None
