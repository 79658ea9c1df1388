"""Read files that foveate has written and that anyone may have changed since: one typed reader for every JSON file.

A `RecordSchema` declares what a kind of file holds, as a type with limits. Reading returns a `Document` that matches it, or raises a
`RecordError`: one line with the file, the key and what is expected there. Size and depth are limited, so that no file can fill the memory.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from foveate.errors import RecordError

__all__ = [
    "ANYTHING", "Amount", "Count", "Document", "Number", "RecordSchema", "Seconds", "Size", "brief", "check_regular", "read_bytes",
    "read_tensors", "read_text", "shown",
]  # fmt: skip

MAX_BYTES = 64 * 2**20
"""Most bytes of a file, unless its schema says otherwise."""
DEPTH = 64
"""Most nested levels of lists and objects; foveate's own files have at most ten."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A non-negative whole number that every program reads exactly."""
Size = Annotated[int, Field(ge=1, le=2**53)]
"""A `Count` of at least one."""
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
"""A finite number that can be computed with, without overflow."""
Amount = Annotated[float, Field(ge=0, le=1e15)]
"""A `Number` that is not negative."""
Seconds = Annotated[float, Field(ge=0, le=1e9)]
"""A duration."""

_T = TypeVar("_T")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


@dataclass(frozen=True)
class Document(Generic[_T]):
    """A file that has been read.

    Attributes:
        raw: the content as plain values, including keys that the schema does not know.
        value: the content as the schema's type.
        text: as it is in the file.
        where: the file, for messages.
    """

    raw: Any
    value: _T
    text: str = field(repr=False)
    where: str


@dataclass(frozen=True)
class RecordSchema(Generic[_T]):
    """What a kind of file contains.

    Args:
        what: the kind of file, with its article, for messages: "a foveate report".
        schema: a type that pydantic can check, such as a dataclass. Keys that it does not name are ignored. A `ValueError` from its
            `__post_init__` becomes a `RecordError`.
        head: keys that must have exactly one value, such as the format.
        remedy: what the user can do about a file that does not match.
        limit: most bytes of a file.
    """

    what: str
    schema: Any
    head: Mapping[str, Any] = field(default_factory=dict)
    remedy: str = ""
    limit: int = MAX_BYTES

    def read(self, path: str | Path) -> Document[_T]:
        """Read a file.

        Raises:
            RecordError: it is missing, not a regular file, too large, or does not match.
        """
        return self.parse(read_bytes(path, self.limit), shown(path))

    def parse(self, text: str | bytes, where: str) -> Document[_T]:
        """Read a text; messages call it `where`.

        Raises:
            RecordError: it is not JSON in UTF-8, has NaN, a key twice or too many levels, or does not match.
        """
        try:
            text = _decoded(text)
            raw = _plain(text)
        except _FaultError as fault:
            raise self.refusal(where, str(fault)) from fault.__cause__
        return self.narrow(Document(raw, None, text, where))

    def of(self, data: Any, where: str) -> Document[_T]:
        """Check plain values that do not come from a file, as if they were read from one.

        Raises:
            RecordError: they are not plain values, or do not match.
        """
        try:
            text = json.dumps(data)
        except (TypeError, ValueError, RecursionError) as error:
            raise self.refusal(where, f"its values cannot be written as JSON ({error})") from error
        return self.parse(text, where)

    def narrow(self, document: Document[Any]) -> Document[_T]:
        """Check a document that was read with a wider schema.

        Raises:
            RecordError: it does not match.
        """
        try:
            self._check_head(document.raw)
            value: _T = _adapter(self.schema).validate_json(document.text, strict=True)
        except _FaultError as fault:
            raise self.refusal(document.where, str(fault)) from None
        except ValidationError as error:
            raise self.refusal(document.where, _first(error)) from error
        return Document(document.raw, value, document.text, document.where)

    def refusal(self, where: str, problem: str) -> RecordError:
        """The error to raise for a document that does not match."""
        return RecordError(f"{where} is not {self.what}: {problem}" + (f"; {self.remedy}" if self.remedy else ""))

    def _check_head(self, raw: Any) -> None:
        for name, wanted in self.head.items():
            found = raw.get(name) if isinstance(raw, dict) else None
            if type(found) is not type(wanted) or found != wanted:
                raise _FaultError(f"it has {name} {_short.repr(found)}; this version of foveate reads {name} {wanted!r}")


class _FaultError(ValueError):
    """What is wrong with a text; `RecordSchema` adds the file."""


def check_regular(path: str | Path) -> None:
    """Check that a path leads to a regular file: opening a pipe would wait forever, and a device may never end.

    Raises:
        RecordError: it does not, or there is no file.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(mode):
        raise RecordError(f"{shown(path)} cannot be read: it is {_KINDS.get(stat.S_IFMT(mode), 'something else')} and not a regular file")


def read_bytes(path: str | Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file.

    Args:
        path: of the file.
        limit: most bytes that it may have.

    Raises:
        RecordError: it cannot be read, or is larger.
    """
    check_regular(path)
    content = bytearray()
    try:
        with open(path, "rb", opener=_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise RecordError(f"{shown(path)} cannot be read: it is no longer a regular file")
            while len(content) <= limit and (part := file.read(2**20)):
                content += part
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > limit:
        raise RecordError(
            f"{shown(path)} is larger than the {limit / 2**20:.0f} MiB that such a file may have; check that it is the right one"
        )
    return bytes(content)


def read_text(path: str | Path, limit: int = MAX_BYTES) -> str:
    """The content of a regular file of UTF-8 text.

    Raises:
        RecordError: it cannot be read, is larger than `limit` bytes, or is not UTF-8.
    """
    try:
        return _decoded(read_bytes(path, limit))
    except _FaultError as fault:
        raise RecordError(f"{shown(path)} cannot be read: {fault}") from fault.__cause__


def read_tensors(path: str | Path, *, mmap: bool = False) -> Any:
    """Read what `torch.save` wrote to the CPU: tensors and plain values, nothing that could run code.

    Args:
        path: of the file.
        mmap: leave tensors in the file until they are used.

    Raises:
        RecordError: it cannot be read, is damaged, or holds anything else.
    """
    import torch

    check_regular(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # damaged pickles raise errors of any kind
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise RecordError(f"{shown(path)} is damaged, or holds more than tensors and could run code: {reason}") from error


def brief(value: Any) -> str:
    """A value from a file for a message: its `repr`, shortened."""
    return _short.repr(value)


def shown(path: str | Path) -> str:
    """A path for a one-line message."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


ANYTHING: RecordSchema[dict[str, Any]] = RecordSchema("a JSON object", dict[str, Any], limit=2**30)
"""Any JSON object, whatever its keys."""


def _unreadable(path: str | Path, error: OSError | ValueError) -> RecordError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return RecordError(f"no such file: {shown(path)}")
    return RecordError(f"{shown(path)} cannot be read: {getattr(error, 'strerror', None) or error}")


def _at_once(path: str, flags: int) -> int:
    """Open without waiting, in case the file has become a pipe since it was checked."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _decoded(text: str | bytes) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _FaultError(f"it is not JSON, because it is not text in UTF-8 (byte {error.start})") from error


def _plain(text: str) -> Any:
    """The values of a JSON text, without anything that programs read differently."""
    if _depth(text) > DEPTH:
        raise _FaultError(f"it nests lists and objects more than {DEPTH} levels deep")
    repeated: list[tuple[dict[str, Any], str]] = []
    infinite = False

    def entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            seen: set[str] = set()
            repeated.append((made, next(name for name, _ in pairs if name in seen or seen.add(name))))  # type: ignore[func-returns-value]
        return made

    def number(word: str) -> float:
        nonlocal infinite
        value = float(word)
        infinite = infinite or not math.isfinite(value)
        return value

    try:
        raw = json.loads(text, object_pairs_hook=entries, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise _FaultError(f"it is not JSON ({error})") from error
    if repeated:
        twice = {id(made): name for made, name in repeated}
        place = next((f"{_key(at)} has" for at, value in _walk(raw) if id(value) in twice and at), "it has")
        raise _FaultError(f"{place} the key {_short.repr(repeated[-1][1])} twice")
    if infinite:
        place = next(_key(at) for at, value in _walk(raw) if isinstance(value, float) and not math.isfinite(value))
        raise _FaultError(f"{place or 'it'} should be a finite number")
    return raw


def _depth(text: str) -> int:
    """How deeply brackets nest, counted without recursion."""
    deepest = depth = 0
    for token in _TOKEN.finditer(text):
        sign = text[token.start()]
        if sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
    return deepest


def _walk(raw: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value with the keys that lead to it."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), raw)]
    while waiting:
        at, value = waiting.pop()
        yield at, value
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting.extend(((*at, name), entry) for name, entry in inner)


def _key(at: tuple[str | int, ...]) -> str:
    """Keys as a program would write them: images[0].plan[3]."""
    parts = [f"[{name}]" if isinstance(name, int) else f".{name}" if name.isidentifier() else f"[{_short.repr(name)}]" for name in at]
    return "".join(part for part in parts if part != "['[key]']").removeprefix(".")


@cache
def _adapter(schema: Any) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def _first(error: ValidationError) -> str:
    """The first fault, with its key."""
    found = error.errors(include_url=False)
    fault, others = found[0], len(found) - 1
    key = _key(fault["loc"])
    if fault["type"] == "missing":
        said = f"{key} is missing"
    elif fault["type"] in ("value_error", "assertion_error"):
        said = f"{key}: {fault['ctx']['error']}" if key else str(fault["ctx"]["error"])
    else:
        said = f"{key or 'it'} {fault['msg'][0].lower()}{fault['msg'][1:]}".replace(" input should ", " should ")
        said += f", not {_short.repr(fault['input'])}" if " should " in said else ""
    return said + (f" (and {others} more)" if others else "")
