"""The options of `foveate labels`, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = [
    "AnswerColumn", "Data", "DataSeed", "Gradients", "ImageColumn", "KeepAll", "LabelsOut", "Limit", "Match", "QuestionColumn",
    "SamplesAtOnce", "Split", "States", "Subset", "Target", "VideoColumn",
]  # fmt: skip

_DATA, _LABELS = "Data", "Labels"

Data = Annotated[
    str,
    typer.Argument(
        help="scenes, a Parquet or JSON-lines file, a folder, or the id of a data set on the Hugging Face hub.",
        metavar="DATA",
        show_default=False,
    ),
]
LabelsOut = Annotated[
    Path, typer.Option("--out", help="Folder for the labels; a run that is there goes on.", metavar="FOLDER", show_default=False)
]
Split = Annotated[str, typer.Option(help="Which split of the data.", metavar="NAME", rich_help_panel=_DATA)]
Subset = Annotated[str | None, typer.Option(help="Which configuration of a data set on the hub.", metavar="NAME", rich_help_panel=_DATA)]
ImageColumn = Annotated[
    str | None,
    typer.Option(help="One image or a list of them; image or images if not given.", metavar="NAME", rich_help_panel=_DATA),
]
VideoColumn = Annotated[
    str | None,
    typer.Option(help="A video, or a list of frames; video or videos if not given.", metavar="NAME", rich_help_panel=_DATA),
]
QuestionColumn = Annotated[str | None, typer.Option(help="The question; question if not given.", metavar="NAME", rich_help_panel=_DATA)]
AnswerColumn = Annotated[
    str | None,
    typer.Option(help="The acceptable answer or answers; answer or answers if not given.", metavar="NAME", rich_help_panel=_DATA),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Ask no more samples; 4000 of scenes if not given.", metavar="N", rich_help_panel=_DATA)
]
DataSeed = Annotated[
    int | None,
    typer.Option("--seed", min=0, help="Shuffle the data with this seed; of scenes, the first one.", metavar="N", rich_help_panel=_DATA),
]
KeepAll = Annotated[bool, typer.Option("--keep-all", help="Keep samples that are answered wrong, too.", rich_help_panel=_LABELS)]
Match = Annotated[
    Literal["exact", "contains"],
    typer.Option(help="Whether an answer must be the reference or may contain it.", metavar="exact|contains", rich_help_panel=_LABELS),
]
States = Annotated[bool, typer.Option("--states", help="Store the visual tokens' states, too.", rich_help_panel=_LABELS)]
Gradients = Annotated[bool, typer.Option("--gradients/--no-gradients", help="Weight attention by its gradient.", rich_help_panel=_LABELS)]
Target = Annotated[
    Literal["logit", "log_probability"],
    typer.Option(help="What the relevance is the relevance of.", metavar="logit|log_probability", rich_help_panel=_LABELS),
]
SamplesAtOnce = Annotated[int, typer.Option("--batch", min=1, help="Samples that run together.", metavar="N")]
