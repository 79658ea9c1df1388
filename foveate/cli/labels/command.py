"""What `foveate labels` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.adapter import Renamed
from foveate.cli.options import MODEL, FramesOption, ModelOptions

__all__ = ["Labels"]

DATA, LABELS = "Data", "Labels"


@dataclass(frozen=True, kw_only=True)
class Labels(ModelOptions, FramesOption):
    """Find out what right answers to the questions of a data set rest on, for a compressor to learn from; resumes a stopped run."""

    data: Annotated[
        str,
        typer.Argument(
            help="scenes, a Parquet or JSON-lines file, a folder, or the id of a data set on the Hugging Face hub.",
            metavar="DATA",
            show_default=False,
        ),
    ]
    out: Annotated[Path, typer.Option(help="Folder for the labels; resumes a run.", metavar="FOLDER", show_default=False)]
    split: Annotated[str, typer.Option(help="Split of the data.", metavar="NAME", rich_help_panel=DATA)] = "train"
    subset: Annotated[str | None, typer.Option(help="Configuration of a data set on the hub.", metavar="NAME", rich_help_panel=DATA)] = None
    image_column: Annotated[
        str | None,
        typer.Option(help="One image or a list of them; by default image or images.", metavar="NAME", rich_help_panel=DATA),
    ] = None
    video_column: Annotated[
        str | None,
        typer.Option(help="A video, or a list of frames; by default video or videos.", metavar="NAME", rich_help_panel=DATA),
    ] = None
    question_column: Annotated[
        str | None, typer.Option(help="The question; by default question.", metavar="NAME", rich_help_panel=DATA)
    ] = None
    answer_column: Annotated[
        str | None,
        typer.Option(help="The acceptable answer or answers; by default answer or answers.", metavar="NAME", rich_help_panel=DATA),
    ] = None
    limit: Annotated[
        int | None, typer.Option(min=1, help="Samples to ask at most; 4000 of scenes by default.", metavar="N", rich_help_panel=DATA)
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Shuffle the data with this seed; of scenes, the number of the first.", metavar="N", rich_help_panel=DATA),
    ] = None
    batch: Annotated[int, typer.Option(min=1, help="Samples in a batch.", metavar="N", rich_help_panel=MODEL), Renamed("--batch-size")] = 1
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.", metavar="N", rich_help_panel=MODEL)] = 64
    keep_all: Annotated[
        bool, typer.Option("--keep-all", help="Also keep samples that the model answers wrong.", rich_help_panel=LABELS)
    ] = False
    match: Annotated[
        Literal["exact", "contains"],
        typer.Option(
            help="Whether an answer must equal the reference or may contain it.", metavar="exact|contains", rich_help_panel=LABELS
        ),
    ] = "exact"
    states: Annotated[bool, typer.Option("--states", help="Also store the visual tokens' states.", rich_help_panel=LABELS)] = False
    gradients: Annotated[
        bool, typer.Option("--gradients/--no-gradients", help="Weight attention by its gradient.", rich_help_panel=LABELS)
    ] = True
    target: Annotated[
        Literal["logit", "log_probability"],
        typer.Option(help="What to explain of each answer token.", metavar="logit|log_probability", rich_help_panel=LABELS),
    ] = "logit"

    def run(self) -> None:
        """See `foveate.cli.labels.run.labels`."""
        from foveate.cli.labels.run import labels

        labels(self)
