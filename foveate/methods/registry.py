"""The names of methods: `register` gives a class a name, `find_method` looks one up."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from types import ModuleType
from typing import Any, TypeVar

from foveate.entry_points import Extensions
from foveate.errors import InputError, UnknownNameError, UsageError
from foveate.method import Method
from foveate.printable import described, printable

__all__ = ["GROUP", "RESERVED", "find_method", "methods", "register"]

GROUP = "foveate.methods"
"""The entry-point group in which a package names its methods."""

RESERVED = {
    "all": "every method",
    "none": "the full model",
    "full": "the full model in results",
    "blind": "the model without its image in results",
    "norm": "the control of the analysis",
    "ideal": "a sequence that short from the start in benchmarks",
}
"""Names that stand for something else where methods are listed."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_KEYS = ("format", "method", "schedule")
"""Keys of a configuration beside the options (see `foveate.methods.configuration`)."""
_DECISIONS = ("score", "plan", "plans")
_M = TypeVar("_M", bound=Method)
_methods: dict[str, type[Method]] = {}


def register(method: type[_M]) -> type[_M]:
    """Give a method a name on the command line, in lmms-eval, in configurations and in results. A function and a decorator.

    The name is the class name in lower case, or the class variable `name`. As a decorator it stands above `@dataclass(frozen=True)`.
    A class that is defined again, as when a notebook cell runs twice, replaces its earlier self.

    Args:
        method: a frozen dataclass that derives from `Method` and overrides `score`, `plan` or `plans`.

    Returns:
        the class itself.

    Raises:
        UsageError: it is no such class.
        InputError: the name is taken, reserved or badly spelled.
    """
    _check_class(method)
    _check_fields(method)
    _check_name(method)
    _methods[method.name] = method
    return method


def methods() -> dict[str, type[Method]]:
    """All registered methods by name: those of foveate, of installed packages, and your own."""
    _extensions.load()
    return dict(sorted(_methods.items()))


def find_method(name: str) -> type[Method]:
    """The method class called `name` (case, dashes and underscores do not matter).

    Raises:
        UnknownNameError: with the nearest name and all known ones.
    """
    wanted, known = _plain(name), _known()
    if wanted not in known:
        # Only now, so that a broken package does not disturb the use of known names; again, because one may have been installed since.
        _extensions.load(again=True)
        known = _known()
    if wanted in known:
        return known[wanted]
    near = difflib.get_close_matches(wanted, known, n=1)
    hint = f"did you mean {known[near[0]].name!r}? " if near else ""
    broken = "".join(f"; the package {package} failed to load ({fault})" for package, fault in _extensions.faults.items())
    raise UnknownNameError(f"unknown method {name!r}: {hint}known methods are {', '.join(sorted(_methods))}{broken}")


def _known() -> dict[str, type[Method]]:
    return {_plain(name): method for name, method in _methods.items()}


def _add(found: Any) -> None:
    """What an entry point names: a class, or a module whose import registers some."""
    if not isinstance(found, ModuleType) and _methods.get(getattr(found, "name", "")) is not found:
        register(found)


_extensions = Extensions(GROUP, _add)


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def _check_class(method: Any) -> None:
    wanted = "register() takes a class that derives from foveate.Method"
    if isinstance(method, Method):
        raise UsageError(f"{wanted}; got an instance of {type(method).__name__}. Pass the class: register({type(method).__name__})")
    if not isinstance(method, type) or not issubclass(method, Method) or method is Method:
        raise UsageError(f"{wanted}; got {described(method)}. Model families have foveate.families.register")
    settings = vars(method).get("__dataclass_params__")
    if settings is None or not settings.frozen:
        raise UsageError(f"{method.__name__} must be a frozen dataclass; write @dataclass(frozen=True) below @foveate.register")
    if not any(name in vars(base) for base in method.__mro__ if base is not Method for name in _DECISIONS):
        raise UsageError(f"{method.__name__} decides nothing; override score(view) for a ranking, or plan(view) for anything else")


def _check_fields(method: type[Method]) -> None:
    given = [name for name in inspect.signature(method).parameters if name in vars(method)["__dataclass_fields__"]]
    for name in given:
        if name not in {option.name for option in dataclasses.fields(method)}:
            raise UsageError(f"{method.__name__}.{name} is an InitVar, which no configuration would hold; make it a field")
    own = {option.name for option in dataclasses.fields(method)} - {option.name for option in dataclasses.fields(Method)}
    for name in sorted(own):
        if hasattr(Method, name):
            raise UsageError(f"{method.__name__}.{name} is an option, but Method has a member of that name; annotate it as ClassVar")
        if name in _KEYS:
            raise UsageError(f"{method.__name__}.{name} is an option, but configurations use that key; rename the option")


def _check_name(method: type[Method]) -> None:
    name, way_out = method.name, f"give {method.__name__} another one: name: ClassVar[str] = ..."
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InputError(f"the name {printable(name)!r} must be lower-case letters, digits and underscores after a letter; {way_out}")
    if _plain(name) in RESERVED:
        raise InputError(f"the name {name!r} stands for {RESERVED[_plain(name)]}; {way_out}")
    for taken in _methods.values():
        if _plain(taken.name) == _plain(name) and _place(taken) != _place(method):
            raise InputError(f"the name {name!r} is taken by {'.'.join(_place(taken))}; {way_out}")


def _place(method: type[Method]) -> tuple[str, str]:
    return method.__module__, method.__qualname__
