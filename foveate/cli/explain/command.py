"""What `foveate explain` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.options import OUTPUT, JsonOption, ModelOptions, QuestionOptions

__all__ = ["Explain"]

RELEVANCE = "Relevance"


@dataclass(frozen=True, kw_only=True)
class Explain(ModelOptions, QuestionOptions, JsonOption):
    """Show which visual tokens the answer rests on."""

    answer: Annotated[
        str | None, typer.Option(help="Explain this answer instead of the model's own.", metavar="TEXT", rich_help_panel=RELEVANCE)
    ] = None
    target: Annotated[
        Literal["logit", "log_probability"],
        typer.Option(help="What to explain of each answer token: logit or log_probability.", metavar="NAME", rich_help_panel=RELEVANCE),
    ] = "logit"
    gradients: Annotated[
        bool, typer.Option("--gradients/--no-gradients", help="Weight attention by its gradient.", rich_help_panel=RELEVANCE)
    ] = True
    top: Annotated[int, typer.Option(min=1, help="Tokens to list and outline.", metavar="N", rich_help_panel=OUTPUT)] = 20
    picture: Annotated[
        Path | None, typer.Option(help="Draw the relevance over the picture, as PNG, JPEG or WebP.", metavar="FILE", rich_help_panel=OUTPUT)
    ] = None

    def run(self) -> None:
        """See `foveate.cli.explain.run.explain`."""
        from foveate.cli.explain.run import explain

        explain(self)
