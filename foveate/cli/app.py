"""The program: its commands, its exit codes, and what it says when it refuses something.

Each command's work is in a module of its own, imported when it runs, so `foveate --help` waits for nothing heavy.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foveate.cli import console, streams
from foveate.cli.adapter import Command, add_command
from foveate.cli.analyse.command import Analyse
from foveate.cli.ask.command import Ask
from foveate.cli.bench.command import Bench
from foveate.cli.demo.build import BuildEmbedded
from foveate.cli.demo.card import PrintCard
from foveate.cli.demo.scene import WriteScene
from foveate.cli.demo.train import TrainEmbedded
from foveate.cli.draw import Draw
from foveate.cli.eval.command import Evaluate
from foveate.cli.explain.command import Explain
from foveate.cli.export.command import ExportVllm
from foveate.cli.labels.command import Labels
from foveate.cli.methods import ListMethods
from foveate.cli.models import ListModels
from foveate.cli.report import WriteReport
from foveate.cli.sizing import Sizing
from foveate.cli.train.command import TrainCompressor
from foveate.errors import FoveateError

__all__ = ["COMMANDS", "DEMO_COMMANDS", "EXPORT_COMMANDS", "app", "main"]

REFUSED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes."""

COMMANDS: Mapping[str, type[Command]] = {
    "ask": Ask,
    "draw": Draw,
    "explain": Explain,
    "bench": Bench,
    "eval": Evaluate,
    "methods": ListMethods,
    "models": ListModels,
    "labels": Labels,
    "train": TrainCompressor,
    "analyse": Analyse,
    "report": WriteReport,
    "sizing": Sizing,
}
DEMO_COMMANDS: Mapping[str, type[Command]] = {
    "scene": WriteScene,
    "card": PrintCard,
    "build": BuildEmbedded,
    "train": TrainEmbedded,
}
"""What stands after `foveate demo`."""
EXPORT_COMMANDS: Mapping[str, type[Command]] = {"vllm": ExportVllm}
"""What stands after `foveate export`."""


class Commands(TyperGroup):
    """Commands that print their help where none of them is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See the base class."""
        if not args:
            ctx.get_help()
            raise typer.Exit(WRONG_USAGE)
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    name="foveate",
    help="Answer questions about pictures with a fraction of the visual tokens.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 refused (bad input, unknown name, a file that cannot be written), 2 wrong usage, 130 interrupted.",
)
demo = typer.Typer(cls=Commands, help="The embedded model, which comes with foveate, and its scenes.")
export = typer.Typer(cls=Commands, help="A model as an inference server takes it, with how to compress.")
for group, commands in ((app, COMMANDS), (demo, DEMO_COMMANDS), (export, EXPORT_COMMANDS)):
    for command, kind in commands.items():
        add_command(group, command, kind)
app.add_typer(demo, name="demo")
app.add_typer(export, name="export")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False) -> None:
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
    with streams.prepared(), console.warnings_as_notes():
        code = _run(arguments)
        problem = streams.flush()
    if problem is None:
        return code
    if code == 0 and problem.errno != errno.EPIPE:  # a reader that went away has what it wanted
        console.error(f"cannot write to standard output: {problem.strerror or problem}")
    return code or REFUSED


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="foveate", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except FoveateError as error:
        console.error(" ".join([str(error), *(f"({note})" for note in getattr(error, "__notes__", ()))]))
        return REFUSED
    except OSError as error:
        console.error(streams.reason(error))
        return REFUSED
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except Exception as error:
        if not hasattr(error, "format_message"):  # wrong usage; typer has had this class in two places
            raise
        from foveate.cli.usage import usage_error

        console.error(usage_error(error))
        return WRONG_USAGE
