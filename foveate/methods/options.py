"""A method from text: `parse_method("tokencarve:information=fast,keep=128")`."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from foveate.errors import FoveateError, InputError, ParameterError, UsageError
from foveate.method import Method
from foveate.methods.registry import find_method
from foveate.methods.schema import options_of
from foveate.printable import described

__all__ = ["build_method", "parse_method", "split_methods", "split_options"]

_SHARED = ("keep", "layer", "clamp")
_NEXT = re.compile(r"[,:](?=\s*[A-Za-z_][\w-]*\s*=)")
"""Where one option ends and the next begins; values may hold commas and colons of their own."""
_WORDS = {"true": True, "false": False, "none": None}
_EXAMPLES = {"keep": "visual tokens per image, such as keep=128, or a share of them, such as keep=0.25"}


def parse_method(
    text: str, *, keep: int | float | None = None, layer: int | None = None, seed: int | None = None, clamp: bool | None = None
) -> Method:
    """The method that a text spells: its name, or its name, a colon and options with commas between them.

        parse_method("fastv", keep=128)
        parse_method("tokencarve:information=fast,keep=128")

    Args:
        text: the name as `foveate.methods.methods()` has it (case, dashes and underscores do not matter), and options as name=value.
        keep: of the method, where the text does not say.
        layer: likewise; `None` leaves the method's default.
        seed: likewise, for methods that have one.
        clamp: likewise.

    Raises:
        UsageError: it is not text.
        UnknownNameError: no method has this name.
        InputError: an option is unknown, given twice, missing or of the wrong type.
        BudgetError, LayerError, OptionError: an option is outside its range.
    """
    if not isinstance(text, str):
        raise UsageError(f"parse_method() takes text, such as 'fastv:keep=128'; got {described(text)}")
    name, settings = split_options(text)
    method = find_method(name)
    given = {"keep": keep, "layer": layer, "seed": seed, "clamp": clamp}
    options = {option: value for option, value in given.items() if value is not None and option in options_of(method).types}
    return _made(method, options | _values(method, settings))


def split_options(text: str) -> tuple[str, list[str]]:
    """The name in a text that spells a method, and its options, each as "name=value"; neither is looked up.

    Raises:
        InputError: nothing precedes or follows the colon.
    """
    name, colon, rest = text.partition(":")
    if colon and not name.strip():
        raise InputError(f"{text!r} names no method before the colon; write name:option=value, such as random:seed=1")
    if colon and not rest.strip():
        raise InputError(f"{text!r} has no option after the colon; write {name.strip()}, or {name.strip()}:option=value")
    return name.strip(), _NEXT.split(rest) if colon else []


def split_methods(text: str) -> list[str]:
    """The methods of a list with commas between them, each as `parse_method` takes it.

    A part such as "stage_one=1" belongs to the method before it: "tokencarve:information=fast,stage_one=1,fastv" spells two methods.
    """
    found: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, _ = part.partition("=")
        if found and equals and ":" not in name:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def build_method(name: str, keep: int | float, layer: int | None, seed: int | None, settings: Sequence[str], clamp: bool) -> Method:
    """The method of a name, a budget and further options as text.

    Args:
        name: as `foveate.methods.methods()` has it.
        keep: tokens or share.
        layer: decoder layer; `None` for the method's own default.
        seed: for methods that have one.
        settings: further options of the method, each as "name=value".
        clamp: let `keep` exceed the tokens there.

    Raises:
        UnknownNameError, BudgetError, LayerError, InputError: what is wrong, and what would be right.
    """
    method = find_method(name)
    options: dict[str, Any] = {"keep": keep, "clamp": clamp}
    if layer is not None:
        options["layer"] = layer
    if seed is not None and "seed" in options_of(method).types:
        options["seed"] = seed
    try:
        return _made(method, options | _values(method, settings, omitted=_SHARED))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{method.name}: {error}") from error


def _made(method: type[Method], options: Mapping[str, Any]) -> Method:
    missing = [name for name in options_of(method).required if name not in options]
    if missing:
        raise InputError(f"{method.name} needs {', '.join(missing)}: {_EXAMPLES.get(missing[0], f'write {method.name}:{missing[0]}=...')}")
    try:
        return method(**options)
    except FoveateError:
        raise
    except ValueError as error:  # a method's own check of another kind
        raise InputError(f"{method.name}: {error}") from error


def _values(method: type[Method], settings: Sequence[str], omitted: Sequence[str] = ()) -> dict[str, Any]:
    schema = options_of(method)
    chosen: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not value.strip():
            known = [own for own in schema.types if own not in omitted]
            example = name if name in known else next(iter(known), "layer")
            raise InputError(f"{method.name}: {setting!r} must be name=value, such as {example}=...")
        if name in schema.types and name in omitted:
            shown = f"{name}={value.strip()}"
            raise ParameterError(f"{method.name}: {shown} cannot be an option of one method here; pass {name} for all methods", name)
        fault = schema.unknown(name, omitted)
        if fault or name in chosen:
            raise InputError(fault or f"{method.name}: {name} is given twice, as {chosen[name]!r} and {value.strip()!r}; keep one")
        chosen[name] = _value(method, name, value.strip())
    return chosen


def _value(method: type[Method], name: str, text: str) -> Any:
    """The text as a value of the option's type: as it stands where the option takes text, else as Python or JSON writes values."""
    schema = options_of(method)
    if schema.types[name] is not Any:
        with suppress(ValueError):
            return schema.read(name, json.dumps(text))
    try:
        return schema.read(name, json.dumps(_literal(text)))
    except ValueError as error:
        raise InputError(f"{method.name}: {name}={text} {error}") from error


def _literal(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return value
