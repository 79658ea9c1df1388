"""A command from a dataclass: its fields are the options, its docstring is the help, and its `run` does the work.

The same object is what the command's code takes, and what a result records of it.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import copy
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, Protocol, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo, ParameterInfo

from foveate.cli import console
from foveate.cli.hints import hint_for
from foveate.errors import FoveateError

__all__ = ["UNRECORDED", "Command", "Option", "Renamed", "Replaced", "add_command", "argument", "command_line", "option", "options_of"]


class Command(Protocol):
    """A frozen dataclass whose fields are annotated with `typer.Option` or `typer.Argument`."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def run(self) -> None:
        """Do what the command is for.

        Raises:
            FoveateError: whatever is wrong with the request.
        """


@dataclass(frozen=True)
class Renamed:
    """In an option's annotation: it had another name, which still works, is not in the help, and is met with a note.

    Args:
        old: the old name, with its dashes; a positional argument where it has none.
    """

    old: str


@dataclass(frozen=True)
class Replaced:
    """In the annotation of a hidden option that still works: what to write instead, for a note.

    Args:
        by: the new spelling.
    """

    by: str


UNRECORDED = object()
"""In an option's annotation: results do not depend on it, so the command that they record omits it."""


@dataclass(frozen=True)
class Option:
    """One field of a command.

    Attributes:
        field: of the dataclass.
        kind: its type, without the annotation.
        info: what typer knows about it.
        marks: what else stands in its annotation.
    """

    field: Field[Any]
    kind: Any
    info: ParameterInfo
    marks: tuple[Any, ...]

    @property
    def name(self) -> str:
        """As the program's user writes it, where it is given by name; with `--no-x` the first of both."""
        named = isinstance(self.info, OptionInfo)
        return self.declarations[0].split("/")[0] if named else (self.info.metavar or self.field.name.upper())

    @property
    def declarations(self) -> tuple[str, ...]:
        """The names that typer is given, or would give it."""
        first = () if self.info.default is ... else (str(self.info.default),)
        given = (*first, *(self.info.param_decls or ()))
        return given or (f"--{self.field.name.replace('_', '-')}",)

    @property
    def positional(self) -> bool:
        """Whether it is an argument, which has no name."""
        return not isinstance(self.info, OptionInfo)


def option(help: str, metavar: str | None = None, panel: str | None = None, *, name: str | None = None, **more: Any) -> Any:
    """An option, for the annotation of a field.

    Args:
        help: one line.
        metavar: what stands for its value in the help; `None` for a flag.
        panel: of the help.
        name: with dashes, where it is not the field's: "--json", or "--grid/--no-grid".
        more: see `typer.Option`.
    """
    return typer.Option(*([name] if name else ()), help=help, metavar=metavar, rich_help_panel=panel, **more)


def argument(help: str, metavar: str, **more: Any) -> Any:
    """An argument, which stands in its place without a name, for the annotation of a field; see `option`."""
    return typer.Argument(help=help, metavar=metavar, show_default=False, **more)


def options_of(kind: type[Command]) -> list[Option]:
    """The fields of a command in the order of its help: its own, then those of its bases from left to right."""
    hints = get_type_hints(kind, include_extras=True)
    declared = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    found = []
    for name in _declared(kind):
        if name in declared:
            plain, *annotations = get_args(hints[name])
            info = next(each for each in annotations if isinstance(each, ParameterInfo))
            found.append(Option(declared[name], plain, info, tuple(each for each in annotations if each is not info)))
    return found


def _declared(kind: type) -> dict[str, None]:
    names = dict.fromkeys(inspect.get_annotations(kind))
    for base in kind.__bases__:
        names |= _declared(base)
    return names


def add_command(app: typer.Typer, name: str, kind: type[Command]) -> None:
    """Let a program have a command.

    Args:
        app: the program, or a group of its commands.
        name: of the command.
        kind: its dataclass.
    """
    app.command(name, cls=_Documented)(_function(kind))


class _Documented(TyperCommand):
    """A command whose usage shows no hidden arguments."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """See the base class."""
        shown = [param for param in self.get_params(ctx) if not getattr(param, "hidden", False)]
        return [self.options_metavar or "", *(piece for param in shown for piece in param.get_usage_pieces(ctx))]


def _function(kind: type[Command]) -> Callable[..., None]:
    """What typer makes a command of: a function whose parameters are the fields, with old names beside the new."""
    options = options_of(kind)
    parameters = [parameter for option in options for parameter in _parameters(option)]

    def command(context: typer.Context, **given: Any) -> None:
        # A value that equals the default is not enough to know that it was not given.
        typed = {name for name in given if context.get_parameter_source(name).name != "DEFAULT"}  # type: ignore[union-attr]
        settings = kind(**{option.field.name: _value(option, given, typed) for option in options})
        try:
            settings.run()
        except FoveateError as error:
            hint = hint_for(error, {option.field.name: option.name for option in options})
            if hint:
                error.add_note(hint)
            raise

    command.__doc__ = inspect.getdoc(kind)
    parameters.insert(0, inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context))
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def _parameters(option: Option) -> Iterator[inspect.Parameter]:
    kind, default = option.kind, option.field.default
    if _is_repeated(kind):
        kind, default = list[get_args(kind)[0]], MISSING if default is MISSING else None  # type: ignore[misc]
        kind = kind if default is MISSING else kind | None
    yield _parameter(option.field.name, kind, option.info, inspect.Parameter.empty if default is MISSING else default)
    for mark in option.marks:
        if isinstance(mark, Renamed):
            info = _renamed(option.info, mark.old)
            yield _parameter(_old(option, mark), kind if NoneType in get_args(kind) else kind | None, info, None)


def _parameter(name: str, kind: Any, info: ParameterInfo, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _renamed(info: ParameterInfo, old: str) -> ParameterInfo:
    """The same option under its old name, hidden; an argument, if that has no dashes."""
    if not old.startswith("-"):
        return typer.Argument(metavar=old, hidden=True)  # type: ignore[no-any-return]
    hidden = copy(info)
    hidden.default, hidden.param_decls, hidden.hidden = ..., (old,), True
    return hidden


def _old(option: Option, mark: Renamed) -> str:
    return f"{option.field.name}_formerly_{mark.old.strip('-').replace('-', '_').lower()}"


def _value(option: Option, given: dict[str, Any], typed: Collection[str]) -> Any:
    """What the user gave for a field, under whichever name; a note where that is an old one. `typed` names what the user gave."""
    value = given[option.field.name]
    for mark in option.marks:
        if isinstance(mark, Renamed) and given[_old(option, mark)] is not None:
            if option.field.name in typed:
                raise typer.BadParameter(f"{option.name} is also given as {mark.old}, its old spelling; pass one of them")
            value = given[_old(option, mark)]
            console.note(f"{mark.old} is the old spelling of {option.name}, and still works")
        if isinstance(mark, Replaced) and value:
            console.note(f"{option.name} is an old spelling, and still works; write {mark.by}")
    return tuple(value or ()) if _is_repeated(option.kind) else value


def _is_repeated(kind: Any) -> bool:
    """Whether it is a tuple of any length, which typer knows as a list."""
    return get_origin(kind) is tuple and get_args(kind)[1:] == (...,)


def command_line(command: str, settings: Command, **instead: Any) -> str:
    """The command that gives the same results again. Files and folders stand in it by their names alone, without their places.

    Args:
        command: its name.
        settings: what it was given; what is `None`, empty or an unset flag is omitted.
        instead: values that stand for those of some fields.
    """
    words = ["foveate", command]
    for option in options_of(type(settings)):
        value: Any = instead.get(option.field.name, getattr(settings, option.field.name))
        if value is None or value is False or UNRECORDED in option.marks:
            continue
        for each in value if _is_repeated(option.kind) else [value]:
            words += [] if option.positional else [option.name]
            words += [] if each is True else _words(each)
    return shlex.join(words)


def _words(value: object) -> Sequence[str]:
    if isinstance(value, tuple):
        return [word for each in value for word in _words(each)]
    return [value.name if isinstance(value, Path) else str(value)]
