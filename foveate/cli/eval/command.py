"""The options of `foveate eval`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from foveate.cli.adapter import UNRECORDED, Renamed, option
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
        option(
            "scenes, stand-ins, tokencarve, explainability-image or explainability-video; may be repeated.", "NAME", WHAT, name="--suite"
        ),
    ] = ()
    tasks: Annotated[str | None, option("lmms-eval's names, separated by commas.", "NAME,...", WHAT)] = None
    methods: Annotated[
        str,
        option(
            "Names, separated by commas; their options after colons: tokencarve:information=fast. all evaluates every method that "
            "the model can carry, none the full model alone.",
            "NAME,...",
            WHAT,
        ),
    ] = "tokencarve,fastv,random"
    keep: Annotated[str, option("Budgets: visual tokens to keep (128), or shares (0.25).", "N|SHARE,...", WHAT)] = "192,128,64"
    limit: Annotated[int | None, option("Questions of each task; by default all.", "N", WHAT, min=1)] = None
    include_paths: Annotated[
        tuple[Path, ...], option("Folder with tasks of your own; may be repeated.", "FOLDER", WHAT, name="--include-path"), UNRECORDED
    ] = ()
    out: Annotated[Path, option("Folder of results; resumes a run.", "FOLDER", HOW)] = Path("runs/eval")
    batch: Annotated[int, option("Questions in a batch.", "N", HOW, min=1), Renamed("--batch-size")] = 8
    frames: Annotated[int, option("Frames of a video, evenly spread in time.", "N", HOW, min=1)] = 8
    max_new_tokens: Annotated[int | None, option("Longest answer, in tokens; by default the task's.", "N", HOW, min=1)] = None
    compare: Annotated[
        tuple[str, str] | None,
        option("Evaluate nothing; test whether two results differ by more than chance.", "FILE[:SETTING] FILE[:SETTING]"),
        UNRECORDED,
    ] = None

    def run(self) -> None:
        """See `foveate.cli.eval.run`."""
        from foveate.cli.eval.run import compare, evaluate

        if self.compare is not None:
            compare(*self.compare, as_json=self.as_json)
        else:
            evaluate(self)
