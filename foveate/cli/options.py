"""The options of the commands, as annotated types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.checks import LARGEST_SEED, finite

__all__ = [
    "AsJson", "Batch", "CardQuestions", "Clamp", "Compare", "CropModel", "CropName", "Device", "Dtype", "FrameCount", "Grid", "Guidance",
    "Hours", "ImageFile", "Index", "Keep", "Layer", "Lines", "MaxMegapixels", "MaxNewTokens", "MethodName", "ModelName", "OutFile",
    "Panels", "Picture", "PictureOrVideo", "Processes", "Question", "Repeat", "ReportFile", "ReportOut", "SceneSeed", "Seed", "Settings",
    "Start", "Steps", "TrainOut", "TrainSeed", "TrainShape", "Version", "Workers",
]  # fmt: skip

_MODEL, _COMPRESSION, _MEASUREMENT, _OUTPUT = "Model", "Compression", "Measurement", "Output"

ImageFile = Annotated[Path, typer.Argument(help="Picture file.", show_default=False)]
PictureOrVideo = Annotated[Path, typer.Argument(metavar="FILE", help="Picture or video file.", show_default=False)]
FrameCount = Annotated[
    int | None,
    typer.Option("--frames", min=1, help="Frames of a video, evenly spread in time; 8 if not given.", metavar="N", rich_help_panel=_MODEL),
]
Question = Annotated[str, typer.Argument(help="What to ask about it.", show_default=False)]
ReportFile = Annotated[Path, typer.Argument(help="What foveate ask --report or Report.save wrote.", show_default=False)]
OutFile = Annotated[Path, typer.Argument(help="Picture to write, as PNG, JPEG or WebP.", show_default=False)]

ModelName = Annotated[str, typer.Option("--model", help="demo, a folder, or a Hugging Face id.", metavar="NAME", rich_help_panel=_MODEL)]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.", metavar="N", rich_help_panel=_MODEL)]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    typer.Option(help="auto, float32, bfloat16 or float16.", metavar="NAME", rich_help_panel=_MODEL),
]
Device = Annotated[
    str, typer.Option(help="Such as cpu or cuda:0; auto takes a GPU if there is one.", metavar="NAME", rich_help_panel=_MODEL)
]

MethodName = Annotated[
    str, typer.Option("--method", help="See foveate methods; none runs the full model.", metavar="NAME", rich_help_panel=_COMPRESSION)
]
Keep = Annotated[
    str, typer.Option(help="Visual tokens that stay (128), or their share (0.25).", metavar="N|SHARE", rich_help_panel=_COMPRESSION)
]
Layer = Annotated[
    int | None,
    typer.Option(help="Decoder layer before which tokens leave; else the method's own.", metavar="N", rich_help_panel=_COMPRESSION),
]
Seed = Annotated[int | None, typer.Option(help="For methods that draw lots.", metavar="N", rich_help_panel=_COMPRESSION)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another option of the method; may be repeated.", metavar="NAME=VALUE", rich_help_panel=_COMPRESSION),
]
Clamp = Annotated[bool, typer.Option("--clamp", help="Let --keep exceed the tokens there; then all stay.", rich_help_panel=_COMPRESSION)]

Compare = Annotated[bool, typer.Option("--compare", help="Run the full model too, and show both.", rich_help_panel=_MEASUREMENT)]
Repeat = Annotated[int, typer.Option(min=1, help="Measure this many runs and show medians.", metavar="N", rich_help_panel=_MEASUREMENT)]
Picture = Annotated[
    Path | None, typer.Option(help="Draw which tokens stayed, as PNG, JPEG or WebP.", metavar="FILE", rich_help_panel=_OUTPUT)
]
Lines = Annotated[
    bool, typer.Option("--lines/--no-lines", help="Draw a line from each merged token to where it went.", rich_help_panel=_OUTPUT)
]
ReportOut = Annotated[
    Path | None, typer.Option("--report", help="Save the report as JSON; foveate draw reads it.", metavar="FILE", rich_help_panel=_OUTPUT)
]
AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout instead of text.", rich_help_panel=_OUTPUT)]
MaxMegapixels = Annotated[float, typer.Option(min=1e-6, callback=finite, help="Refuse a larger picture before decoding it.", metavar="N")]

Index = Annotated[int, typer.Option(min=0, help="Which image of the report.", metavar="N")]
CropName = Annotated[
    Literal["auto", "center-square", "pad-square", "whole"],
    typer.Option("--crop", help="What the model saw, if you know: center-square, pad-square or whole; auto: ask --model.", metavar="NAME"),
]
CropModel = Annotated[str | None, typer.Option("--model", help="The model that was asked; it says where tokens lie.", metavar="NAME")]
Panels = Annotated[bool, typer.Option("--panels/--last-panel", help="Every step, or only the last.")]
Grid = Annotated[bool, typer.Option("--grid/--no-grid", help="Draw the token grid.")]

SceneSeed = Annotated[int, typer.Option("--seed", min=0, help="Which scene.", metavar="N")]
TrainOut = Annotated[Path, typer.Argument(help="Folder for checkpoints, log and weights; a run that is there goes on.")]
Hours = Annotated[float | None, typer.Option(min=0.001, callback=finite, help="How long to train; 3 if there are no --steps.", metavar="N")]
Steps = Annotated[tuple[int, int] | None, typer.Option(help="Steps of tower and decoder, instead of hours.", metavar="TOWER DECODER")]
CardQuestions = Annotated[
    int, typer.Option("--card-questions", min=0, help="Held-out questions of each family to measure the weights on; 0: none.", metavar="N")
]
TrainShape = Annotated[str | None, typer.Option("--shape", help="Kind of model, the demo model's own if not given.", metavar="NAME")]
Guidance = Annotated[
    float, typer.Option("--guidance", min=0.0, callback=finite, help="Weight of the supervision of attention; 0: none.", metavar="W")
]
Start = Annotated[Path | None, typer.Option("--start", help="Folder of an earlier run's weights to go on from.", metavar="FOLDER")]
TrainSeed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="Of weights and scenes.", metavar="N")]
Batch = Annotated[int | None, typer.Option(min=4, help="Windows a step and process.", metavar="N")]
Processes = Annotated[int, typer.Option(min=1, help="Processes that train together; on a CPU one for each core.", metavar="N")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that draw scenes; on a GPU all the cores.", metavar="N")]
Version = Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)]
