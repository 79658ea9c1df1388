"""Methods in files: one method or a schedule of several as JSON or YAML, and back.

    {"format": 1, "method": "tokencarve", "keep": 128, "layer": 2}
    {"format": 1, "schedule": [{"method": "fastv", "keep": 0.5}, {"method": "tokencarve", "keep": 64, "layer": 8}]}

Options that a file omits have their defaults. Files of a newer format are refused, and so are options that the method does not have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from foveate.errors import InputError, MethodError, RecordError, UnknownNameError
from foveate.files.records import RecordSchema, read_text, shown
from foveate.files.writing import write_whole
from foveate.files.yaml import YamlError, plain_yaml
from foveate.method import METHOD_FORMAT, Method, schedule_of
from foveate.methods.registry import find_method
from foveate.methods.schema import options_of

__all__ = ["load_method", "method_from_dict", "method_from_json", "method_to_dict", "method_to_json", "save_method"]

LIMIT = 2**18
"""Bytes of a file, a hundred times those of a long schedule."""

_WHAT = "a method's configuration"


@dataclass(frozen=True)
class ScheduleRecord:
    """A schedule as a file has it; each entry is checked against the method that it names."""

    schedule: list[dict[str, Any]]


@dataclass(frozen=True)
class MethodRecord:
    """The name in an entry."""

    method: str


_HEAD: RecordSchema[Any] = RecordSchema(_WHAT, dict[str, Any], {"format": METHOD_FORMAT}, limit=LIMIT)
_SCHEDULE: RecordSchema[ScheduleRecord] = RecordSchema(_WHAT, ScheduleRecord)
_METHOD: RecordSchema[MethodRecord] = RecordSchema(_WHAT, MethodRecord)


def method_to_dict(method: Method | Sequence[Method]) -> dict[str, Any]:
    """A method, or several as a schedule, as plain lists, numbers and strings.

    Raises:
        UsageError: it is neither.
        OptionError: an option holds an object of this process, such as a tensor, and how to save it instead.
        MethodError: reading would not give the same method: it has no registered name, or an option does not survive.
    """
    schedule = schedule_of(method, "method_to_dict()")
    entries = [_entry(each) for each in schedule]
    return {"format": METHOD_FORMAT, **entries[0]} if isinstance(method, Method) else {"format": METHOD_FORMAT, "schedule": entries}


def method_from_dict(data: dict[str, Any]) -> Method | list[Method]:
    """The inverse of `method_to_dict`.

    Returns:
        a method, or a list of them where the data says "schedule"; `foveate.compress` takes both.

    Raises:
        RecordError: the data is not a configuration of a format that this version reads; the message names the key.
    """
    return _made(data, "this dictionary")


def method_to_json(method: Method | Sequence[Method]) -> str:
    """`method_to_dict` as one JSON document; it raises the same."""
    return json.dumps(method_to_dict(method), indent=2)


def method_from_json(text: str) -> Method | list[Method]:
    """The inverse of `method_to_json`.

    Raises:
        RecordError: as `method_from_dict`, or the text is not JSON.
    """
    return _made(_HEAD.parse(text, "this text").raw, "this text")


def save_method(method: Method | Sequence[Method], path: str | Path) -> None:
    """Write a method, or several as a schedule, to a file, completely or not at all.

    Args:
        method: as `foveate.compress` takes it.
        path: ends in .json, .yaml or .yml, which decides the format.

    Raises:
        UsageError, OptionError, MethodError: as `method_to_dict`.
        InputError: the name ends otherwise.
        WriteError: the file cannot be written; an earlier one is unchanged.
    """
    in_yaml = _is_yaml(path)
    data = method_to_dict(method)
    write_whole(path, yaml.safe_dump(data, sort_keys=False) if in_yaml else json.dumps(data, indent=2) + "\n")


def load_method(path: str | Path) -> Method | list[Method]:
    """Read a file that `save_method` or a person wrote.

    Returns:
        a method, or a list of them where the file says "schedule"; `foveate.compress` takes both.

    Raises:
        InputError: the name does not end in .json, .yaml or .yml.
        RecordError: the file does not exist, cannot be read, or is not a configuration of a format that this version reads.
    """
    if not _is_yaml(path):
        document = _HEAD.read(path)
        return _made(document.raw, document.where)
    try:
        return _made(plain_yaml(read_text(path, LIMIT)), shown(path))
    except YamlError as error:
        raise _HEAD.refusal(shown(path), str(error)) from error


def _is_yaml(path: str | Path) -> bool:
    suffix = Path(path).suffix.lower()
    if suffix not in (".json", ".yaml", ".yml"):
        raise InputError(f"{shown(path)} does not say its format; end the name in .json, .yaml or .yml")
    return suffix != ".json"


def _entry(method: Method) -> dict[str, Any]:
    """One method without the format, after a check that reading it gives the same method."""
    data = {key: value for key, value in method.to_dict().items() if key != "format"}
    try:
        again = _method(data, "its configuration")
    except RecordError as error:
        raise MethodError(f"{type(method).__name__} cannot be saved: {error}") from error
    if type(again) is not type(method):
        raise MethodError(
            f"{type(method).__name__} cannot be saved: the name {method.name!r} stands for another class; register it under its own"
        )
    if again != method:
        changed = [key for key in data if key != "method" and getattr(again, key) != getattr(method, key)]
        raise MethodError(
            f"{type(method).__name__} cannot be saved: {', '.join(changed)} would not be the same when read; use plain values"
        )
    return data


def _made(data: Any, where: str) -> Method | list[Method]:
    found = _HEAD.of(data, where).value
    options = {key: value for key, value in found.items() if key != "format"}
    if "schedule" not in options:
        return _method(options, where)
    if len(options) > 1:
        raise _HEAD.refusal(where, f"beside schedule it has {', '.join(sorted(set(options) - {'schedule'}))}; put options into the entries")
    entries = _SCHEDULE.of(options, where).value.schedule
    if not entries:
        raise _HEAD.refusal(where, "schedule is empty; give at least one method")
    return [_method(entry, f"schedule[{number}] of {where}") for number, entry in enumerate(entries)]


def _method(data: dict[str, Any], where: str) -> Method:
    try:
        kind = find_method(_METHOD.of(data, where).value.method)
    except UnknownNameError as error:
        raise _METHOD.refusal(where, str(error)) from error
    options = {key: value for key, value in data.items() if key != "method"}
    schema = options_of(kind)
    fault = next(filter(None, map(schema.unknown, options)), None)
    if fault:
        raise _METHOD.refusal(where, fault)
    values = RecordSchema[dict[str, Any]](_WHAT, schema.record).of(options, where).value
    try:
        return kind(**values)
    except ValueError as error:  # a method's own checks; foveate's errors are ValueErrors too
        raise _METHOD.refusal(where, str(error)) from error
