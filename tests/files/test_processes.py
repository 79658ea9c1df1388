"""What the first process refuses, all refuse, so that none waits for another forever."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import BusyError, FoveateError, WriteError
from foveate.files.locks import check_free, claimed_folder
from foveate.files.processes import SingleProcess, by_the_first, claimed_by_the_first
from foveate.files.writing import write_error


def test_the_first_acts_and_its_refusal_reaches_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    def broadcast(objects: list[Any]) -> list[Any]:
        if objects != [None] or not sent:
            sent.append(pickle.dumps(objects))
        return pickle.loads(sent[-1])  # type: ignore[no-any-return]

    monkeypatch.setattr("accelerate.utils.broadcast_object_list", broadcast)
    acted: list[int] = []

    def refuse(rank: int) -> None:
        acted.append(rank)
        raise write_error("labels.json", OSError(28, "No space left on device"))

    for rank in (0, 1):
        with pytest.raises(WriteError, match=r"cannot write labels\.json: No space left on device"):
            by_the_first(SingleProcess(rank, 2), lambda rank=rank: refuse(rank))
    assert acted == [0]


def test_an_error_that_is_no_refusal_is_raised_where_it_is() -> None:
    def fail() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        by_the_first(SingleProcess(), fail)


def test_the_folder_is_held_for_all_until_the_work_is_done(tmp_path: Path) -> None:
    with claimed_by_the_first(SingleProcess(), tmp_path):
        with pytest.raises(BusyError):
            check_free(tmp_path)
    with claimed_folder(tmp_path), pytest.raises(FoveateError, match="another process"), claimed_by_the_first(SingleProcess(), tmp_path):
        pass
