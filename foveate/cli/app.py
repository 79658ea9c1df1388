"""The program: its commands, its exit codes, and what it says when something is refused.

Each command's work is in a module of its own, imported when it runs, so that `foveate --help` waits for nothing heavy.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from foveate.cli import compressor_commands, console, demo_commands, measure_commands, picture_commands, streams
from foveate.cli.options import Version
from foveate.errors import FoveateError, ParameterError
from foveate.printable import printable

__all__ = ["app", "main"]

REFUSED, INTERRUPTED = 1, 130
"""Exit codes of our own; typer gives 2 for wrong usage."""
_OPTIONS = {"before": "prompt", "after": "prompt"}
"""Options that are not called like the parameters of the library that they set."""


class Commands(TyperGroup):
    """Commands whose complaints about wrong usage quote what was typed, such as a file's name, with control characters spelled out."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """See the base class."""
        with _printable_complaints():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """See the base class."""
        with _printable_complaints():
            return super().invoke(ctx)


@contextmanager
def _printable_complaints() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message"):  # typer has had this class in two places
            text = printable(error.format_message(), lines=True)
            error.format_message = lambda: text
        raise


app = typer.Typer(
    cls=Commands,
    name="foveate",
    help="Answer questions about pictures with a fraction of the visual tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 refused (bad input, unknown name, a file that cannot be written), 2 wrong usage, 130 interrupted.",
)
for commands in (picture_commands, compressor_commands, measure_commands):
    app.add_typer(commands.app)
app.add_typer(demo_commands.app, name="demo")


@app.callback(invoke_without_command=True)
def root(version: Version = False) -> None:
    """Answer questions about pictures with a fraction of the visual tokens."""
    if version:
        from foveate.version import __version__

        console.put(f"foveate {__version__}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; never raises for what a user can cause.

    Args:
        arguments: without the program's name; `None` takes those of the process.
    """
    with streams.prepared():
        code = _run(arguments)
        problem = streams.flush()
    if problem is None:
        return code
    if code == 0 and problem.errno != errno.EPIPE:  # a reader that went away has what it wanted
        console.error(f"cannot write to standard output: {problem.strerror or problem}")
    return code or REFUSED


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(args=arguments, prog_name="foveate")
    except FoveateError as error:
        console.error(_with_options(error))
        return REFUSED
    except OSError as error:
        console.error(streams.reason(error))
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    return 0


def _with_options(error: FoveateError) -> str:
    """The error's text, with the options that stand for the parameters it names."""
    parameters = error.parameters if isinstance(error, ParameterError) else ()
    names = dict.fromkeys(_OPTIONS.get(name, name.replace("_", "-")) for name in parameters)
    options = ", ".join(f"--{name}" for name in names)
    return f"{error} ({options})" if options else str(error)
