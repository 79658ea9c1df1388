"""The options of `foveate labels`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from foveate.cli.adapter import Renamed, argument, option
from foveate.cli.options import MODEL, FramesOption, ModelOptions

__all__ = ["Labels"]

DATA, LABELS = "Data", "Labels"


@dataclass(frozen=True, kw_only=True)
class Labels(ModelOptions, FramesOption):
    """Find out what right answers to the questions of a data set rest on, for a compressor to learn from; resumes a stopped run."""

    data: Annotated[
        str, argument("scenes, a Parquet or JSON-lines file, a folder, or the id of a data set on the Hugging Face hub.", "DATA")
    ]
    out: Annotated[Path, option("Folder for the labels; resumes a run.", "FOLDER", show_default=False)]
    split: Annotated[str, option("Split of the data.", "NAME", DATA)] = "train"
    subset: Annotated[str | None, option("Configuration of a data set on the hub.", "NAME", DATA)] = None
    image_column: Annotated[str | None, option("One image or a list of them; by default image or images.", "NAME", DATA)] = None
    video_column: Annotated[str | None, option("A video, or a list of frames; by default video or videos.", "NAME", DATA)] = None
    question_column: Annotated[str | None, option("The question; by default question.", "NAME", DATA)] = None
    answer_column: Annotated[str | None, option("The acceptable answer or answers; by default answer or answers.", "NAME", DATA)] = None
    limit: Annotated[int | None, option("Samples to ask at most; 4000 of scenes by default.", "N", DATA, min=1)] = None
    seed: Annotated[int | None, option("Shuffle the data with this seed; of scenes, the number of the first.", "N", DATA, min=0)] = None
    batch: Annotated[int, option("Samples in a batch.", "N", MODEL, min=1), Renamed("--batch-size")] = 1
    max_new_tokens: Annotated[int, option("Longest answer, in tokens.", "N", MODEL, min=1)] = 64
    keep_all: Annotated[bool, option("Also keep samples that the model answers wrong.", panel=LABELS, name="--keep-all")] = False
    match: Annotated[
        Literal["exact", "contains"], option("Whether an answer must equal the reference or may contain it.", "exact|contains", LABELS)
    ] = "exact"
    states: Annotated[bool, option("Also store the visual tokens' states.", panel=LABELS, name="--states")] = False
    gradients: Annotated[bool, option("Weight attention by its gradient.", panel=LABELS, name="--gradients/--no-gradients")] = True
    target: Annotated[
        Literal["logit", "log_probability"], option("What to explain of each answer token.", "logit|log_probability", LABELS)
    ] = "logit"

    def run(self) -> None:
        """See `foveate.cli.labels.run.labels`."""
        from foveate.cli.labels.run import labels

        labels(self)
