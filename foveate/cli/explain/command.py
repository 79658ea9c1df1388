"""The options of `foveate explain`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from foveate.cli.adapter import option
from foveate.cli.options import OUTPUT, JsonOption, ModelOptions, QuestionOptions

__all__ = ["Explain"]

RELEVANCE = "Relevance"


@dataclass(frozen=True, kw_only=True)
class Explain(ModelOptions, QuestionOptions, JsonOption):
    """Show which visual tokens the answer rests on."""

    answer: Annotated[str | None, option("Explain this answer instead of the model's own.", "TEXT", RELEVANCE)] = None
    target: Annotated[
        Literal["logit", "log_probability"], option("What to explain of each answer token: logit or log_probability.", "NAME", RELEVANCE)
    ] = "logit"
    gradients: Annotated[bool, option("Weight attention by its gradient.", panel=RELEVANCE, name="--gradients/--no-gradients")] = True
    top: Annotated[int, option("Tokens to list and outline.", "N", OUTPUT, min=1)] = 20
    picture: Annotated[Path | None, option("Draw the relevance over the picture, as PNG, JPEG or WebP.", "FILE", OUTPUT)] = None

    def run(self) -> None:
        """See `foveate.cli.explain.run.explain`."""
        from foveate.cli.explain.run import explain

        explain(self)
