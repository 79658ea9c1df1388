"""The options of `foveate explain`, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["AnswerText", "ExplainTarget", "HeatPicture", "TopTokens", "WithGradients"]

_RELEVANCE, _OUTPUT = "Relevance", "Output"

AnswerText = Annotated[
    str | None, typer.Option("--answer", help="Explain this answer instead of the model's own.", metavar="TEXT", rich_help_panel=_RELEVANCE)
]
ExplainTarget = Annotated[
    Literal["logit", "log_probability"],
    typer.Option("--target", help="What of each answer token: logit or log_probability.", metavar="NAME", rich_help_panel=_RELEVANCE),
]
WithGradients = Annotated[
    bool, typer.Option("--gradients/--no-gradients", help="Weight attention by its gradient.", rich_help_panel=_RELEVANCE)
]
TopTokens = Annotated[int, typer.Option("--top", min=1, help="Tokens to list and outline.", metavar="N", rich_help_panel=_OUTPUT)]
HeatPicture = Annotated[
    Path | None, typer.Option("--picture", help="Draw it over the picture, as PNG, JPEG or WebP.", metavar="FILE", rich_help_panel=_OUTPUT)
]
