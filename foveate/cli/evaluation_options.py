"""The options of `foveate eval`, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "CompareResults", "EvaluatedKeeps", "EvaluatedMethods", "IncludePaths", "LongestAnswer", "QuestionLimit", "QuestionsAtOnce", "RunOut",
    "SuiteNames", "TaskNames", "VideoFrames",
]  # fmt: skip

_WHAT, _HOW = "What to evaluate", "How"

SuiteNames = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        help="scenes, stand-ins, tokencarve, explainability-image or explainability-video; may be repeated.",
        metavar="NAME",
        rich_help_panel=_WHAT,
    ),
]
TaskNames = Annotated[
    str | None, typer.Option("--tasks", help="lmms-eval's names, separated by commas.", metavar="NAME,...", rich_help_panel=_WHAT)
]
EvaluatedMethods = Annotated[
    str, typer.Option("--methods", help="See foveate methods; none runs the full model alone.", metavar="NAME,...", rich_help_panel=_WHAT)
]
EvaluatedKeeps = Annotated[
    str, typer.Option("--keep", help="Budgets: tokens (128) or shares (0.25).", metavar="N|SHARE,...", rich_help_panel=_WHAT)
]
QuestionLimit = Annotated[
    int | None, typer.Option(min=1, help="Questions of each task; all if not given.", metavar="N", rich_help_panel=_WHAT)
]
IncludePaths = Annotated[
    list[Path] | None,
    typer.Option("--include-path", help="Folder with tasks of yours; may be repeated.", metavar="FOLDER", rich_help_panel=_WHAT),
]
RunOut = Annotated[
    Path, typer.Option("--out", help="Folder of the run; a run that is there goes on.", metavar="FOLDER", rich_help_panel=_HOW)
]
QuestionsAtOnce = Annotated[int, typer.Option("--batch-size", min=1, help="Questions at a time.", metavar="N", rich_help_panel=_HOW)]
VideoFrames = Annotated[
    int, typer.Option("--frames", min=1, help="Frames of a video, evenly spread in time.", metavar="N", rich_help_panel=_HOW)
]
LongestAnswer = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Longest answer; else what the task says.", metavar="N", rich_help_panel=_HOW),
]
CompareResults = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--compare", help="Evaluate nothing; tell whether two results differ beyond chance.", metavar="FILE[:SETTING] FILE[:SETTING]"
    ),
]
