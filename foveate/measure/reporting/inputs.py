"""Reads what `foveate eval`, `bench` and `analyse` wrote, and checks whether it belongs together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from foveate.errors import InputError
from foveate.files.records import ANYTHING
from foveate.measure.bench.records import BENCH_KIND, Run
from foveate.measure.result_forms import ANALYSIS, EVALUATION, RESULTS_FORMAT

__all__ = ["ResultFile", "differences", "read_inputs"]

Kind = Literal["eval", "bench", "analyse"]


@dataclass(frozen=True)
class ResultFile:
    """One file of results.

    Attributes:
        kind: the command that wrote it.
        name: folder and name of the file, for the page.
        data: its content.
        run: the same as a `Run`, for "bench".
    """

    kind: Kind
    name: str
    data: Mapping[str, Any]
    run: Run | None = None

    @property
    def model(self) -> Mapping[str, Any]:
        """What the model is: see `foveate.measure.facts.describe`."""
        return self.data["facts"].get("model") or {}


def read_inputs(paths: Sequence[Path]) -> list[ResultFile]:
    """All results in files and folders, in their order; a file named twice counts once.

    Raises:
        InputError: a path does not exist, a file contains no results, or a folder has none.
    """
    found: dict[Path, ResultFile] = {}
    for path in paths:
        if not path.exists():
            raise InputError(f"no such file or folder: {path}; name what foveate eval, bench or analyse wrote")
        inside = list(_inside(path)) if path.is_dir() else [(path, _classify(path))]
        known = [(file, each) for file, each in inside if each is not None]
        if not known:
            what = "no results.json, information_loss.json or results of foveate bench" if path.is_dir() else "no results of foveate"
            raise InputError(f"{path} contains {what}; name what foveate eval, bench or analyse wrote")
        for file, each in known:
            found.setdefault(file.resolve(), each)
    return list(found.values())


def differences(inputs: Sequence[ResultFile]) -> list[str]:
    """Why the results do not belong on one page: different models or different questions, one sentence each; empty if they do."""
    first = inputs[0]
    said = [
        f"{first.name} is about {_named(first)}, {other.name} about {_named(other)}"
        for other in inputs[1:]
        if first.model.get("fingerprint") != other.model.get("fingerprint")
    ]
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for each in inputs:
        for task, data in _data(each):
            before, where = seen.setdefault((each.kind, task), (data, each.name))
            if before != data:
                said.append(f"{task}: {where} and {each.name} are about different questions")
    return list(dict.fromkeys(said))


def _inside(folder: Path) -> Iterator[tuple[Path, ResultFile | None]]:
    for path in sorted(folder.glob("*.json")):
        yield path, _classify(path)


def _classify(path: Path) -> ResultFile | None:
    """The results in a file; `None` if it has none."""
    document = ANYTHING.read(path)
    data = document.raw
    name = f"{path.resolve().parent.name}/{path.name}"
    if data.get("kind") == "foveate analyse":
        ANALYSIS.narrow(document)
        return ResultFile("analyse", name, data)
    if data.get("kind") == BENCH_KIND:
        return ResultFile("bench", name, data, Run.of(document))
    if data.get("format") == RESULTS_FORMAT and "results" in data:
        EVALUATION.narrow(document)
        return ResultFile("eval", name, data)
    return None


def _named(each: ResultFile) -> str:
    model = each.model
    what = each.data["settings"].get("model") if each.kind != "analyse" else None
    return f"{what or model.get('class', 'a model')} ({str(model.get('fingerprint'))[:8]})"


def _data(each: ResultFile) -> Iterator[tuple[str, str]]:
    """Name and digest of every set of questions."""
    if each.kind == "analyse":
        yield "held-out scenes", each.data["settings"]["questions"]
    if each.kind == "eval":
        for tasks in each.data["results"].values():
            for task, figures in tasks.items():
                yield task, figures["data"]
