"""A folder in which a run of evaluations keeps what is finished, so that nothing is lost when it stops."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.chat.asking import Reply
from foveate.errors import InputError
from foveate.files.locks import LOCK, check_free, claimed_folder
from foveate.files.records import brief
from foveate.files.writing import is_leftover, make_folder, write_whole
from foveate.measure.evaluation.harness import Outcome
from foveate.measure.result_forms import CELL, SETTINGS, digest

__all__ = ["BLIND", "FULL", "RunFolder", "Setting", "cell_of", "write_json"]

FORMAT = 1
_STATE = "run.json"


@dataclass(frozen=True)
class Setting:
    """One way of running the model: a method and how much it keeps, the full model, or the model without its picture."""

    method: str
    keep: int | float | None = None

    @property
    def name(self) -> str:
        """As files and results are called."""
        return self.method if self.keep is None else f"{self.method}-{self.keep}"


FULL, BLIND = Setting("full"), Setting("blind")


class RunFolder:
    """Finished evaluations, one file for each setting and task. As a context manager it holds the folder for this process alone.

    Args:
        folder: where; it is made, if it is not there, when the context is entered.
        settings: what must be the same for the figures to belong together.

    Raises:
        InputError: the folder holds a run with other settings, or something else.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._settings = {"format": FORMAT, **settings}
        self._held = ExitStack()
        self._check()
        check_free(folder)

    def __enter__(self) -> RunFolder:
        with ExitStack() as held:
            held.enter_context(claimed_folder(self.folder))
            self._check()  # another process may have been here since
            write_json(self.folder / _STATE, self._settings)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def _check(self) -> None:
        if (self.folder / _STATE).exists():
            if (self.folder / "cells").exists():  # else it was stopped before anything was finished, and whatever it was does not matter
                self._compare(SETTINGS.read(self.folder / _STATE).raw)
        elif self.folder.exists() and (not self.folder.is_dir() or not all(map(_is_ours, self.folder.iterdir()))):
            raise InputError(f"{self.folder} holds something else than a run; choose another --out")

    def _compare(self, before: Mapping[str, Any]) -> None:
        changed = [
            f"{name} was {brief(before.get(name))} and is {brief(self._settings.get(name))}"
            for name in {**before, **self._settings}
            if json.dumps(before.get(name)) != json.dumps(self._settings.get(name))
        ]
        if changed:
            raise InputError(
                f"{self.folder} holds a run with other settings ({'; '.join(changed)}); choose another --out, or go on with its"
            )

    def done(self, setting: Setting, task: str) -> dict[str, Any] | None:
        """What is finished of a setting and task; `None` if nothing is.

        Raises:
            RecordError: its file is damaged; the message names the key.
        """
        path = self._cell(setting, task)
        return CELL.read(path).raw if path.exists() else None

    def keep(self, setting: Setting, task: str, cell: Mapping[str, Any]) -> None:
        """Keep a finished evaluation; a kill leaves the whole file or none."""
        path = self._cell(setting, task)
        make_folder(path.parent)
        write_json(path, cell)

    def _cell(self, setting: Setting, task: str) -> Path:
        return self.folder / "cells" / setting.name / f"{task}.json"


def _is_ours(path: Path) -> bool:
    """Whether a file is one that a run leaves that was killed before it had written anything."""
    return path.name == LOCK or is_leftover(path)


def cell_of(outcome: Outcome, replies: Mapping[tuple[str, int], Reply], facts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """One setting's evaluation on one task, as plain values.

    Args:
        outcome: answers and scores.
        replies: what the answers took, by part and row.
        facts: on what it was measured.
        more: further entries.
    """
    names = [name for name in Reply.__dataclass_fields__ if name != "text"]
    took = list(replies.values())
    return {
        "score": outcome.score,
        "metrics": outcome.metrics,
        "questions": len(outcome.samples),
        "data": digest([(sample.id, sample.target) for sample in outcome.samples]),
        **{name: sum(getattr(reply, name) for reply in took) / len(took) for name in names},
        "facts": dict(facts),
        **more,
        "samples": [asdict(sample) for sample in outcome.samples],
    }


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a file whole or not at all.

    Raises:
        WriteError: it cannot be written; what was there is as it was.
    """
    write_whole(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")
