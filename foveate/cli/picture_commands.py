"""What is asked of one picture or video, and the lists of what there is."""

from __future__ import annotations

import typer

from foveate.cli.checks import parse_keep
from foveate.cli.explain_options import AnswerText, ExplainTarget, HeatPicture, TopTokens, WithGradients
from foveate.cli.options import (
    AsJson,
    Clamp,
    Compare,
    CropModel,
    CropName,
    Device,
    Dtype,
    FrameCount,
    Grid,
    ImageFile,
    Index,
    Keep,
    Layer,
    Lines,
    MaxMegapixels,
    MaxNewTokens,
    MethodName,
    ModelName,
    OutFile,
    Panels,
    Picture,
    PictureOrVideo,
    Question,
    Repeat,
    ReportFile,
    ReportOut,
    Seed,
    Settings,
)

__all__ = ["app"]

app = typer.Typer()


@app.command("ask")
def ask_command(
    image: PictureOrVideo,
    question: Question,
    model: ModelName = "demo",
    frames: FrameCount = None,
    max_new_tokens: MaxNewTokens = 32,
    dtype: Dtype = "auto",
    device: Device = "auto",
    method: MethodName = "tokencarve",
    keep: Keep = "128",
    layer: Layer = None,
    seed: Seed = None,
    settings: Settings = None,
    clamp: Clamp = False,
    compare: Compare = False,
    repeat: Repeat = 1,
    picture: Picture = None,
    lines: Lines = True,
    report: ReportOut = None,
    as_json: AsJson = False,
    max_megapixels: MaxMegapixels = 64.0,
) -> None:
    """Ask a question about a picture or a video."""
    budget = parse_keep(keep)
    from foveate.cli.ask import Request, ask

    request = Request(
        image=image,
        frames=frames,
        question=question,
        model=model,
        method=method,
        keep=budget,
        layer=layer,
        seed=seed,
        settings=tuple(settings or ()),
        clamp=clamp,
        compare=compare,
        repeat=repeat,
        picture=picture,
        lines=lines,
        report=report,
        as_json=as_json,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
        max_pixels=_pixels(max_megapixels),
    )
    ask(request)


@app.command("explain")
def explain_command(
    image: PictureOrVideo,
    question: Question,
    model: ModelName = "demo",
    frames: FrameCount = None,
    max_new_tokens: MaxNewTokens = 32,
    dtype: Dtype = "auto",
    device: Device = "auto",
    answer: AnswerText = None,
    target: ExplainTarget = "logit",
    gradients: WithGradients = True,
    top: TopTokens = 20,
    picture: HeatPicture = None,
    as_json: AsJson = False,
    max_megapixels: MaxMegapixels = 64.0,
) -> None:
    """Show which visual tokens the answer rests on."""
    from foveate.cli.explaining import Explanation, explain

    request = Explanation(
        image=image,
        frames=frames,
        question=question,
        model=model,
        answer=answer,
        target=target,
        gradients=gradients,
        top=top,
        picture=picture,
        as_json=as_json,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        device=device,
        max_pixels=_pixels(max_megapixels),
    )
    explain(request)


@app.command("draw")
def draw_command(
    report: ReportFile,
    image: ImageFile,
    out: OutFile,
    index: Index = 0,
    crop: CropName = "auto",
    model: CropModel = None,
    panels: Panels = True,
    grid: Grid = True,
    lines: Lines = True,
    max_megapixels: MaxMegapixels = 64.0,
) -> None:
    """Draw which tokens stayed, from a saved report."""
    from foveate.cli.drawing import Drawing, draw

    look = Drawing(index=index, crop=crop, model=model, panels=panels, grid=grid, lines=lines)
    draw(report, image, out, look, _pixels(max_megapixels))


@app.command("methods")
def methods_command(as_json: AsJson = False) -> None:
    """List the methods."""
    from foveate.cli.lists import list_methods

    list_methods(as_json)


@app.command("models")
def models_command(as_json: AsJson = False) -> None:
    """List the models that can be compressed."""
    from foveate.cli.lists import list_models

    list_models(as_json)


def _pixels(megapixels: float) -> int:
    return round(megapixels * 1e6)
