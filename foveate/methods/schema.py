"""What an option of a method may hold: the types of its fields, checked in the same way for files and for text."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable
from functools import cache
from typing import Any, Required, get_type_hints

from pydantic import ConfigDict, TypeAdapter, with_config
from pydantic.errors import PydanticUserError
from typing_extensions import TypedDict

from foveate.method import Method

__all__ = ["check_option", "option_adapter", "option_types", "options_type", "required"]

_CONFIG = ConfigDict(arbitrary_types_allowed=True, strict=True)
_PLAIN = (bool, int, float, str)


@cache
def option_types(method: type) -> dict[str, Any]:
    """The type of each option that a configuration can hold, by name.

    A type that cannot be resolved is that of the default, or anything. Of a union, members that no plain value can be are omitted.
    """
    try:
        known = get_type_hints(method)
    except (NameError, TypeError):  # names that only type checkers see, or of a function's scope
        known = {}
    return {option.name: _readable(known.get(option.name, _fallback(option))) for option in dataclasses.fields(method) if option.init}


@cache
def options_type(method: type) -> Any:
    """All options of a method as one type for a `Form`; options without a default are required."""
    needed = required(method)
    fields = {name: Required[kind] if name in needed else kind for name, kind in option_types(method).items()}
    return with_config(_CONFIG)(TypedDict(method.__name__, fields, total=False))  # type: ignore[operator]


@cache
def option_adapter(method: type, name: str) -> TypeAdapter[Any]:
    """What checks the values of one option."""
    return _adapter(option_types(method)[name])


def required(method: type) -> list[str]:
    """Options that have no default."""
    missing = dataclasses.MISSING
    return [each.name for each in dataclasses.fields(method) if each.init and each.default is missing and each.default_factory is missing]


def check_option(method: type[Method], name: str, omitted: Iterable[str] = ()) -> str | None:
    """Why a method has no option of this name, with the nearest one; `None` where it has.

    Args:
        method: the class.
        name: what was asked for.
        omitted: options that cannot be set in this place.
    """
    known = [own for own in option_types(method) if own not in omitted]
    if name in known:
        return None
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{method.name} has no option {name!r}: {hint}it has {', '.join(known) or 'none beyond keep and layer'}"


def _fallback(option: dataclasses.Field[Any]) -> Any:
    return type(option.default) if type(option.default) in _PLAIN else Any


def _readable(kind: Any) -> Any:
    """The part of a type that plain values can fill; `None` where there is none."""
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    found = [member for member in members if _can_read(member)]
    return typing.Union[tuple(found)] if found else None  # noqa: UP007 - made from a tuple


def _can_read(kind: Any) -> bool:
    try:
        adapter = _adapter(kind)
    except PydanticUserError:  # no schema can be made of it, such as a dataclass of tensors
        return False
    return adapter.core_schema["type"] not in ("is-instance", "callable")  # objects, which no file holds


def _adapter(kind: Any) -> TypeAdapter[Any]:
    # Types that bring a configuration of their own, such as dataclasses, refuse another one.
    try:
        return TypeAdapter(kind, config=_CONFIG)
    except PydanticUserError:
        return TypeAdapter(kind)
