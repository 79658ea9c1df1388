"""A method from what stands in a command or a file: a name, and options as text."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Sequence
from typing import Any

from foveate.errors import InputError
from foveate.method import Method
from foveate.methods.registry import find_method

__all__ = ["build_method"]


def build_method(name: str, keep: int | float, layer: int | None, seed: int | None, settings: Sequence[str], clamp: bool) -> Method:
    """The method that names and texts describe.

    Args:
        name: as `foveate methods` lists it.
        keep: tokens or share.
        layer: decoder layer; `None` for the method's own default.
        seed: for methods that have one.
        settings: further fields of the method, each as "name=value".
        clamp: let `keep` exceed the tokens there.

    Raises:
        UnknownNameError, BudgetError, LayerError, InputError: what is wrong, and what would be right.
    """
    method = find_method(name)
    options: dict[str, Any] = {"keep": keep, "clamp": clamp, **_settings(method, settings)}
    if layer is not None:
        options["layer"] = layer
    if seed is not None and "seed" in _fields(method):
        options["seed"] = seed
    try:
        return method(**options)
    except ValueError as error:  # a method's own checks; foveate's errors are ValueErrors too, and their text is as good
        raise InputError(f"{method.name}: {error}") from error


def _settings(method: type[Method], settings: Sequence[str]) -> dict[str, Any]:
    known = _fields(method)
    chosen: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not value:
            raise InputError(f"{setting!r} must be name=value, such as {next(iter(known), 'layer')}=...")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise InputError(f"{method.name} has no option {name!r}: {hint}it has {', '.join(known) or 'none beyond keep and layer'}")
        chosen[name] = _value(method, name, value.strip())
    return chosen


def _fields(method: type[Method]) -> list[str]:
    return [field.name for field in dataclasses.fields(method) if field.name not in ("keep", "layer", "clamp")]


def _value(method: type[Method], name: str, text: str) -> Any:
    """The text as the kind of value that the field's default is."""
    default = next(field.default for field in dataclasses.fields(method) if field.name == name)
    if isinstance(default, str):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if default is not dataclasses.MISSING and default is not None and type(value) is not type(default):
        raise InputError(f"{method.name}: {name}={text} must be of the kind of its default, {default!r}")
    return value
