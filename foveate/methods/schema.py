"""What the options of a method may hold: the types of its fields, checked in the same way for files and for text."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
import types
import typing
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Required, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError, WrapValidator, with_config
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticCustomError, to_jsonable_python
from typing_extensions import TypedDict

from foveate.method import Method
from foveate.methods.registry import methods

__all__ = ["OptionSchema", "options_of"]

_CONFIG = ConfigDict(arbitrary_types_allowed=True, strict=True)
_PLAIN = (bool, int, float, str)
_SPOKEN = {int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path", type(None): "null"}


@dataclasses.dataclass(frozen=True)
class OptionSchema:
    """The options of one method.

    Attributes:
        method: the class.
        types: the type of each option by name. Of a union, members that no file can hold are omitted.
        required: names of options without a default.
        defaults: the default of each option as a plain value, for lists; `None` if it is required.
        record: all options as one type for a `foveate.files.records.RecordSchema`.
    """

    method: type[Method]
    types: dict[str, Any]
    required: tuple[str, ...]
    defaults: dict[str, Any]
    record: Any

    def unknown(self, name: str, omitted: Sequence[str] = ()) -> str | None:
        """Why there is no option of this name, with the nearest one or the methods that have it; `None` where there is.

        Args:
            name: what was asked for.
            omitted: options that cannot be set in this place.
        """
        known = [own for own in self.types if own not in omitted]
        if name in known:
            return None
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        others = [] if near else [found.name for found in methods().values() if name in options_of(found).types]
        elsewhere = f"; {', '.join(others)} {'has' if len(others) == 1 else 'have'} it" if others else ""
        return f"{self.method.name} has no option {name!r}: {hint}it has {', '.join(known) or 'none beyond keep and layer'}{elsewhere}"

    def read(self, name: str, text: str) -> Any:
        """The value of an option from its JSON.

        Raises:
            ValueError: it is not of the option's type; the text says what is expected.
        """
        try:
            return _adapter(self.types[name]).validate_json(text, strict=True)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"]
            raise ValueError(said.replace("Input should", "should")) from error


def options_of(method: type[Method]) -> OptionSchema:
    """The options of a method, from its fields."""
    return _options_of(cast(Hashable, method))


@cache
def _options_of(method: Any) -> OptionSchema:
    hints = _hints(method)
    options = [option for option in dataclasses.fields(method) if option.init]
    kinds = {option.name: _readable(hints.get(option.name, _fallback(option))) for option in options}
    missing = dataclasses.MISSING
    needed = tuple(option.name for option in options if option.default is missing and option.default_factory is missing)
    fields = {name: Required[kind] if name in needed else kind for name, kind in kinds.items()}
    record = with_config(_CONFIG)(TypedDict(method.__name__, fields, total=False))  # type: ignore[operator]
    return OptionSchema(method, kinds, needed, {option.name: _default(option) for option in options}, record)


def _hints(method: type) -> dict[str, Any]:
    """The annotations of a class and its bases, without those that name what only a type checker or a function sees."""
    with suppress(NameError, TypeError, AttributeError):
        return get_type_hints(method)
    hints: dict[str, Any] = {}
    for base in reversed(method.__mro__):
        seen = vars(sys.modules[base.__module__]) if base.__module__ in sys.modules else {}
        with suppress(NameError):
            for name, annotation in inspect.get_annotations(base).items():
                alone = types.SimpleNamespace(__annotations__={name: annotation})
                with suppress(NameError, TypeError, AttributeError):
                    hints |= get_type_hints(alone, seen, dict(vars(base)))
    return hints


def _default(option: dataclasses.Field[Any]) -> Any:
    missing = dataclasses.MISSING
    try:
        value = option.default if option.default_factory is missing else option.default_factory()
    except Exception:  # the code is somebody else's, and needed only where the option is not given
        return None
    with suppress(UnicodeDecodeError):  # of bytes
        return None if value is missing else to_jsonable_python(value, fallback=str)
    return repr(value)


def _fallback(option: dataclasses.Field[Any]) -> Any:
    return type(option.default) if type(option.default) in _PLAIN else Any


def _readable(kind: Any) -> Any:
    """The part of a type that a file can hold; `None` where there is none."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind if _can_read(kind) else None
    members = tuple(member for member in typing.get_args(kind) if _can_read(member))
    if len(members) < 2:
        return members[0] if members else None
    return Annotated[typing.Union[members], WrapValidator(_spoken(members))]  # noqa: UP007 - made from a tuple


def _spoken(members: Sequence[Any]) -> Callable[[Any, Callable[[Any], Any]], Any]:
    """A validator that names the members of a union, where pydantic reports the fault of each."""
    names = " or ".join(_SPOKEN.get(member, getattr(member, "__name__", str(member))) for member in members)

    def check(value: Any, inner: Callable[[Any], Any]) -> Any:
        try:
            return inner(value)
        except ValidationError:
            raise PydanticCustomError("option_type", f"Input should be {names}") from None  # type: ignore[arg-type]

    return check


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
