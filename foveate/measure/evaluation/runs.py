"""The finished evaluations of a run in a folder, so that nothing is lost when it stops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.chat.asking import Reply
from foveate.files.locks import check_free
from foveate.measure.evaluation.harness import TaskResult
from foveate.measure.result_forms import CELL, digest
from foveate.measure.store import ResultStore, write_json

__all__ = ["BLIND", "FULL", "RunFolder", "Setting", "cell_of", "write_json"]


@dataclass(frozen=True)
class Setting:
    """One way of running the model: a method and its budget, the full model, or the model without the image."""

    method: str
    keep: int | float | None = None

    @property
    def name(self) -> str:
        """The name in files and results."""
        return self.method if self.keep is None else f"{self.method}-{self.keep}"


FULL, BLIND = Setting("full"), Setting("blind")


class RunFolder(ResultStore):
    """Finished evaluations, one file for each setting and task.

    Args:
        folder: created when the context is entered, unless it exists.
        settings: must be equal for the figures to belong together.

    Raises:
        InputError: the folder contains a run with other settings, or something else.
        BusyError: another process holds the folder.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        super().__init__(folder, settings, CELL, "run.json")
        check_free(folder)

    def __enter__(self) -> RunFolder:
        super().__enter__()
        return self

    def done(self, setting: Setting, task: str) -> dict[str, Any] | None:
        """The finished evaluation of a setting and task; `None` if there is none.

        Raises:
            RecordError: its file is damaged; the message names the key.
        """
        return self.get(f"{setting.name}/{task}")

    def keep(self, setting: Setting, task: str, cell: Mapping[str, Any]) -> None:
        """Save a finished evaluation; a kill leaves the whole file or none."""
        self[f"{setting.name}/{task}"] = cell


def cell_of(outcome: TaskResult, replies: Mapping[tuple[str, int], Reply], facts: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """One setting's evaluation on one task, as plain values.

    Args:
        outcome: answers and scores.
        replies: the answers with their costs, by part and row.
        facts: what it was measured on.
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
