"""What `foveate eval` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from foveate.cli.adapter import UNRECORDED, Renamed
from foveate.cli.options import JsonOption, MethodOptions, ModelOptions

__all__ = ["Evaluate"]

WHAT, HOW = "What to evaluate", "How"


@dataclass(frozen=True, kw_only=True)
class Evaluate(ModelOptions, MethodOptions, JsonOption):
    """Evaluate methods on the tasks of lmms-eval, beside the full model and the model without the picture."""

    IDENTIFYING: ClassVar = ("model", "dtype", "limit", "layer", "seed", "settings", "clamp", "frames", "max_new_tokens")
    """What must be the same for figures to belong together; methods, budgets and tasks may be added to a run."""

    suites: Annotated[
        tuple[str, ...],
        typer.Option(
            "--suite",
            help="scenes, stand-ins, tokencarve, explainability-image or explainability-video; may be repeated.",
            metavar="NAME",
            rich_help_panel=WHAT,
        ),
    ] = ()
    tasks: Annotated[str | None, typer.Option(help="lmms-eval's names, separated by commas.", metavar="NAME,...", rich_help_panel=WHAT)] = (
        None
    )
    methods: Annotated[
        str,
        typer.Option(
            help="Names, separated by commas; options of a method after colons: tokencarve:information=fast. "
            "none evaluates the full model alone.",
            metavar="NAME,...",
            rich_help_panel=WHAT,
        ),
    ] = "tokencarve,fastv,random"
    keep: Annotated[
        str, typer.Option(help="Budgets: visual tokens to keep (128), or shares (0.25).", metavar="N|SHARE,...", rich_help_panel=WHAT)
    ] = "192,128,64"
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task; by default all.", metavar="N", rich_help_panel=WHAT)] = (
        None
    )
    include_paths: Annotated[
        tuple[Path, ...],
        typer.Option("--include-path", help="Folder with tasks of your own; may be repeated.", metavar="FOLDER", rich_help_panel=WHAT),
        UNRECORDED,
    ] = ()
    out: Annotated[Path, typer.Option(help="Folder of results; resumes a run.", metavar="FOLDER", rich_help_panel=HOW)] = Path("runs/eval")
    batch: Annotated[int, typer.Option(min=1, help="Questions in a batch.", metavar="N", rich_help_panel=HOW), Renamed("--batch-size")] = 8
    frames: Annotated[int, typer.Option(min=1, help="Frames of a video, evenly spread in time.", metavar="N", rich_help_panel=HOW)] = 8
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer, in tokens; by default the task's.", metavar="N", rich_help_panel=HOW)
    ] = None
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Evaluate nothing; test whether two results differ by more than chance.", metavar="FILE[:SETTING] FILE[:SETTING]"
        ),
        UNRECORDED,
    ] = None

    def run(self) -> None:
        """See `foveate.cli.eval.run`."""
        from foveate.cli.eval.run import compare, evaluate

        if self.compare is not None:
            compare(*self.compare, as_json=self.as_json)
        else:
            evaluate(self)
