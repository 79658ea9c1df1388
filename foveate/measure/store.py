"""The one way in which a long measurement saves finished results, so that the same command resumes it after a stop.

A `ResultStore` is a folder with the settings that all results share and one file for each finished result. Measurements
that save their results in a single file compare settings by `check_same` as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from foveate.errors import InputError
from foveate.files.locks import LOCK, claimed_folder
from foveate.files.records import RecordSchema, brief
from foveate.files.writing import is_leftover, make_folder, write_whole

__all__ = ["ResultStore", "changes", "check_same", "write_json"]

STORE_FORMAT = 1
_RESULTS = "cells"
_SETTINGS: RecordSchema[dict[str, Any]] = RecordSchema("the settings of a run", dict[str, Any], remedy="name another folder")


class ResultStore:
    """Finished results in a folder. As a context manager it holds the folder for this process alone.

    Outside its context, the caller must hold the folder in another way and call `begin` before the first result.

    Args:
        folder: created when the context is entered, unless it exists.
        settings: must be equal for results to belong together.
        schema: of one result.
        settings_file: the name of the file with the settings.

    Raises:
        InputError: the folder holds results of other settings, or something else.
        BusyError: another process holds the folder.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], schema: RecordSchema[Any], settings_file: str = "settings.json") -> None:
        self.folder = folder
        self._settings = {"format": STORE_FORMAT, **settings}
        self._schema, self._file = schema, folder / settings_file
        self._held = ExitStack()
        self._check()

    def __enter__(self) -> ResultStore:
        with ExitStack() as held:
            held.enter_context(claimed_folder(self.folder))
            self._check()  # another process may have been here since
            self.begin()
            self._held = held.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder."""
        self._held.close()

    def begin(self) -> None:
        """Write the settings, for results to follow."""
        make_folder(self.folder)
        write_json(self._file, self._settings)

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def __getitem__(self, name: str) -> Any:
        """The result of that name, as plain values.

        Raises:
            RecordError: its file is damaged; the message names the key.
        """
        return self._schema.read(self._path(name)).raw

    def get(self, name: str) -> Any:
        """The result of that name; `None` if there is none."""
        return self[name] if name in self else None  # noqa: SIM401 - this is what `get` is made of

    def __setitem__(self, name: str, result: Mapping[str, Any] | list[Any]) -> None:
        """Save a finished result; a kill leaves the whole file or none.

        Raises:
            InputError: it holds NaN or infinity, which no reader takes; nothing is saved.
            WriteError: it cannot be written.
        """
        try:
            json.dumps(result, allow_nan=False)
        except ValueError as error:
            raise InputError(f"the result {name} holds NaN or infinity, so it is not saved; run the model in float32") from error
        path = self._path(name)
        make_folder(path.parent)
        write_json(path, result)

    def remove(self) -> None:
        """Delete all results, release the folder, and delete it if nothing else is in it."""
        for path in sorted((self.folder / _RESULTS).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        for own in (self.folder / _RESULTS, self._file):
            if own.exists():
                own.rmdir() if own.is_dir() else own.unlink()
        self.close()
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / _RESULTS / f"{name}.json"

    def _check(self) -> None:
        """Refuse a folder with anything else, or with results of other settings; a run that finished nothing binds nobody."""
        if self._file.exists():
            if (self.folder / _RESULTS).exists():
                before = {"format": STORE_FORMAT, **_SETTINGS.read(self._file).raw}  # the first versions wrote no format
                finished = any((self.folder / _RESULTS).rglob("*.json"))  # a run may be killed in its first result
                check_same(self.folder, before, self._settings if finished else {**before, "format": STORE_FORMAT})
        elif self.folder.exists() and (not self.folder.is_dir() or not all(map(_is_ours, self.folder.iterdir()))):
            raise InputError(f"{self.folder} contains something other than a run; name another folder")


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, as "name was value and is value"; equal in JSON is equal."""
    return [
        f"{name} was {brief(before.get(name))} and is {brief(now.get(name))}"
        for name in {**before, **now}
        if json.dumps(before.get(name)) != json.dumps(now.get(name))
    ]


def check_same(place: Path, before: Mapping[str, Any], now: Mapping[str, Any], further: list[str] | None = None) -> None:
    """See that results in a place are of the settings asked for.

    Args:
        place: the file or folder, for the message.
        before: settings of the results there.
        now: settings asked for.
        further: other differences, in words.

    Raises:
        InputError: naming every difference.
    """
    found = [*changes(before, now), *(further or [])]
    if found:
        raise InputError(f"{place} holds a run with other settings ({'; '.join(found)}); name another place, or use the same settings")


def write_json(path: Path, data: Mapping[str, Any] | list[Any]) -> None:
    """Write a file whole or not at all.

    Raises:
        WriteError: it cannot be written; the old file is unchanged.
    """
    write_whole(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def _is_ours(path: Path) -> bool:
    """Whether a file is a leftover of a run that was killed before it wrote anything."""
    return path.name == LOCK or is_leftover(path)
