"""What the program says of wrong usage, in the voice of its other errors: one line, with what was typed and where to look."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

__all__ = ["usage_error"]


def usage_error(error: Any) -> str:
    """The text for an error of typer, which has had their classes in two places.

    Args:
        error: with a `format_message`, and where it is known with the context and the parameter.
    """
    fault = _fault(error.__cause__)
    if fault is not None:
        error.message = fault
    own = hasattr(error, "param") and error.param is None and not error.param_hint  # raised by a command about several options
    near = _nearest(error)
    text = (error.message if own or near else error.format_message()).strip().rstrip(".")
    initial = text[:1].lower() if text[1:2].islower() else text[:1]  # FOLDER is a name
    said = (initial + text[1:]).replace(". Did you mean", "; did you mean").rstrip("?") + (f"; did you mean {near!r}" if near else "")
    context = getattr(error, "ctx", None)
    return said if context is None else f"{said}{'?' if '; did you mean' in said else ';'} see {context.command_path} --help"


def _nearest(error: Any) -> str | None:
    """The option that is most like a mistyped one."""
    known = getattr(error, "possibilities", None) or ()
    return next(iter(difflib.get_close_matches(getattr(error, "option_name", ""), known, n=1, cutoff=0)), None)


def _fault(cause: object) -> str | None:
    """What pydantic found wrong with a value, in words of our own."""
    if not isinstance(cause, ValidationError):
        return None
    fault = cause.errors(include_url=False)[0]
    kind, details = fault["type"], fault.get("ctx", {})
    said = {
        "int_parsing": "is not a whole number",
        "int_from_float": "is not a whole number",
        "float_parsing": "is not a number",
        "greater_than_equal": f"must be at least {details.get('ge')}",
        "less_than_equal": f"must be at most {details.get('le')}",
    }
    if kind == "value_error":
        return str(details["error"])
    return f"{str(fault['input'])!r} {said[kind]}" if kind in said else fault["msg"]
