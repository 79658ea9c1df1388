"""Label a whole data set with any number of processes, in runs that may be killed at any time.

The samples are split into ranges, each of which becomes one shard. A range is done when its shard exists, which happens in one step
(`label_files`). So the folder alone shows what remains to be done, and an unfinished range is done again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from foveate.errors import InputError
from foveate.explain.labels.label_files import (
    INFO,
    SKIPPED,
    Counts,
    LabelsInfo,
    ShardSummary,
    ShardWriter,
    read_info,
    read_summary,
    shard_path,
    shards,
    write_info,
)
from foveate.explain.labels.labeller import Labeller, SampleResult
from foveate.explain.labels.samples import SampleSource
from foveate.files.processes import ProcessGroup, SingleProcess, by_the_first, claimed_by_the_first
from foveate.files.writing import write_whole

__all__ = ["SingleProcess", "ProcessGroup", "Tally", "check_folder", "make_labels", "ranges", "versions"]

SHARD = 64
"""Most samples in one shard: the work that a kill can cost, about a minute for a model that labels one sample a second."""

_FEWEST_SHARDS = 16  # for a small data set, so that several processes have work to share


class Tally:
    """The summaries of a folder's finished shards; each is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[Path, ShardSummary] = {}

    def refresh(self) -> Counts:
        """Look for newly finished shards, by any process, and count."""
        for path in shards(self._folder):
            if path not in self._known:
                self._known[path] = read_summary(path)
        return sum((one.counts for one in self._known.values()), Counts())

    def write_skipped(self) -> None:
        """Write `skipped.jsonl`, one skipped sample per line."""
        listed = [skipped for path in sorted(self._known) for skipped in self._known[path].skipped]
        write_whole(self._folder / SKIPPED, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in listed))

    def commonest_reason(self) -> str:
        """Why most samples were skipped."""
        reasons = Counter(skipped.reason for one in self._known.values() for skipped in one.skipped)
        return reasons.most_common(1)[0][0]


def make_labels(
    folder: Path,
    source: SampleSource,
    labeller: Labeller,
    info: LabelsInfo,
    processes: ProcessGroup | None = None,
    progress: Callable[[Counts], object] | None = None,
) -> Counts:
    """Label all samples that are not labelled yet. Every process calls this with the same arguments.

    Args:
        folder: for the labels; created if necessary.
        source: the samples.
        labeller: labels them with a model.
        info: how the labels are made; must agree with what is in the folder.
        processes: the processes that share the work; this process alone if `None`.
        progress: called after every batch of this process with the counts of all finished shards and its own unfinished one.

    Returns:
        the counts over all shards.

    Raises:
        InputError: the folder cannot be used, or holds labels made with other settings, or no sample gave a label.
        BusyError: another run is writing to the folder.
        WriteError: the folder cannot be written; finished shards stay.
    """
    group = SingleProcess() if processes is None else processes
    check_folder(folder, info)
    with claimed_by_the_first(group, folder):
        counts, tally = _make(folder, source, labeller, info, group, progress)
    _check_any(folder, counts, tally)
    return counts


def _make(
    folder: Path,
    source: SampleSource,
    labeller: Labeller,
    info: LabelsInfo,
    group: ProcessGroup,
    progress: Callable[[Counts], object] | None,
) -> tuple[Counts, Tally]:
    """`make_labels` in a locked folder."""
    waiting = [(number, own) for number, own in enumerate(ranges(len(source))) if not shard_path(folder, number).exists()]
    # No process may write before all have looked, or two would count differently.
    group.wait_for_everyone()

    def begin() -> None:
        if not (folder / INFO).exists():
            write_info(folder, info)

    by_the_first(group, begin)
    tally = Tally(folder)
    for number, own in waiting[group.process_index :: group.num_processes]:
        _shard(folder, number, own, source, labeller, tally, progress)
        if group.process_index == 0:
            tally.refresh()
            tally.write_skipped()
    group.wait_for_everyone()
    counts = tally.refresh()

    def finish() -> None:
        tally.write_skipped()
        write_info(folder, replace(info, counts=counts))

    by_the_first(group, finish)
    return counts, tally


def ranges(samples: int) -> list[range]:
    """The samples of each shard; depends only on their number, so that every run splits alike."""
    size = max(1, min(SHARD, samples // _FEWEST_SHARDS))
    return [range(first, min(first + size, samples)) for first in range(0, samples, size)]


def check_folder(folder: Path, info: LabelsInfo | None = None) -> None:
    """Check that labels can be written to a folder, without changing it.

    Args:
        folder: it need not exist, but its parent must.
        info: what existing labels must agree with.

    Raises:
        InputError: they cannot.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; name a folder for the labels")
    there = folder if folder.exists() else folder.absolute().parent
    if not there.is_dir():
        raise InputError(f"cannot make {folder}: there is no folder {there}; create it first")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {there}: permission denied; choose another place")
    if (folder / INFO).exists():
        before = read_info(folder)
        different = before.differences(info) if info is not None else []
        if different:
            raise InputError(
                f"{folder} holds labels that were made with {'; '.join(different)}: continue with the same settings, or name another folder"
            )
    elif folder.exists() and any(folder.glob("*.parquet")):
        raise InputError(f"{folder} holds Parquet files but no {INFO}, so it was not made by foveate labels; name another folder")


def versions() -> Mapping[str, str]:
    """The versions of the packages that labels depend on."""
    found = {}
    for package in ("foveate", "torch", "transformers", "datasets", "pyarrow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a checkout that is not installed
            continue
    return found


def _shard(
    folder: Path,
    number: int,
    indices: range,
    source: SampleSource,
    labeller: Labeller,
    tally: Tally,
    progress: Callable[[Counts], object] | None,
) -> None:
    with ShardWriter(folder, number, states=labeller.choice.states) as shard:
        for results in labeller.label(source, indices):
            for result in results:
                _record(shard, result)
            if progress is not None:
                progress(tally.refresh() + shard.summary.counts)


def _record(shard: ShardWriter, result: SampleResult) -> None:
    if result.rows:
        shard.keep(result.rows)
    elif result.reason is not None:
        shard.skip(result.sample, result.reason)
    else:
        shard.answered_wrong(result.sample)


def _check_any(folder: Path, counts: Counts, tally: Tally) -> None:
    if counts.kept:
        return
    if counts.skipped >= counts.wrong:
        raise InputError(
            f"none of {counts.asked} samples could be used; the most common reason: {tally.commonest_reason()} "
            f"(all reasons: {folder / SKIPPED}). Remove {folder} before trying again"
        )
    raise InputError(
        f"none of the {counts.wrong} answers that could be judged is correct, so there are no labels; compare with match='contains', raise "
        f"max_new_tokens, or keep wrong answers with keep_all=True. Remove {folder} before trying again"
    )
