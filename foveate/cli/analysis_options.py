"""The options of `foveate analyse` and `foveate report`, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AnalysedBudgets", "AnalysedLayers", "AnalysedMethods", "AnalysedSamples", "AnalysisBatch", "AnalysisCut", "AnalysisOut",
    "AnalysisSeeds", "Mixed", "PageOut", "PageRuns",
]  # fmt: skip

AnalysedMethods = Annotated[
    str, typer.Option("--methods", help="Methods by name, and norm: the longest hidden states.", metavar="NAME,...")
]
AnalysedBudgets = Annotated[str, typer.Option("--keep", help="Visual tokens that stay; all of them is the full model.", metavar="N,...")]
AnalysedSamples = Annotated[int, typer.Option("--samples", min=2, help="Held-out questions, spread over their families.", metavar="N")]
AnalysisCut = Annotated[int, typer.Option("--layer", min=0, help="Decoder layer before which tokens leave.", metavar="N")]
AnalysedLayers = Annotated[
    str | None, typer.Option("--layers", help="Decoder layers to measure at; else four from the cut to the last.", metavar="N,...")
]
AnalysisSeeds = Annotated[int, typer.Option("--seeds", min=1, help="How often random choices are drawn.", metavar="N")]
AnalysisOut = Annotated[Path, typer.Option("--out", help="Folder of the results; a run that is there goes on.", metavar="FOLDER")]
AnalysisBatch = Annotated[int, typer.Option("--batch", min=1, help="Questions at a time.", metavar="N")]

PageRuns = Annotated[
    list[Path], typer.Argument(metavar="RUN...", help="Folders or files that foveate eval, bench and analyse wrote.", show_default=False)
]
PageOut = Annotated[
    Path | None, typer.Option("--out", help="HTML file to write; if not given, report.html in the first folder.", metavar="FILE")
]
Mixed = Annotated[bool, typer.Option("--mixed", help="Put runs of different models or data on one page, which then says so.")]
