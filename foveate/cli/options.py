"""Groups of options that several commands share, as dataclasses to inherit from. What a command has alone stands in its own module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from foveate.cli.adapter import UNRECORDED, Replaced
from foveate.cli.checks import finite

__all__ = [
    "COMPRESSION", "MEASUREMENT", "MODEL", "OUTPUT", "CutOption", "DeviceOption", "FramesOption", "JsonOption",
    "LinesOption", "MethodOptions", "ModelOption", "ModelOptions", "PixelLimit", "QuestionOptions",
]  # fmt: skip

MODEL, COMPRESSION, MEASUREMENT, OUTPUT = "Model", "Compression", "Measurement", "Output"
"""Panels of the help."""


@dataclass(frozen=True, kw_only=True)
class DeviceOption:
    """Where a model runs."""

    device: Annotated[
        str, typer.Option(help="Such as cpu or cuda:0; auto uses a GPU if there is one.", metavar="NAME", rich_help_panel=MODEL)
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelOption:
    """Which model, and its precision."""

    model: Annotated[
        str,
        typer.Option(help="demo or demo-qwen2-vl (embedded), a folder, or a Hugging Face id.", metavar="NAME", rich_help_panel=MODEL),
    ] = "demo"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Precision: auto, float32, bfloat16 or float16.", metavar="NAME", rich_help_panel=MODEL),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelOptions(ModelOption, DeviceOption):
    """Which model, its precision, and where it runs."""


@dataclass(frozen=True, kw_only=True)
class FramesOption:
    """How many frames of a video the model is shown."""

    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Frames of a video, evenly spread in time; 8 by default.", metavar="N", rich_help_panel=MODEL),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PixelLimit:
    """The size above which a picture is not decoded."""

    max_megapixels: Annotated[
        float, typer.Option(min=1e-6, callback=finite, help="Refuse a larger picture before decoding it.", metavar="N")
    ] = 64.0

    @property
    def max_pixels(self) -> int:
        """The same in pixels."""
        return round(self.max_megapixels * 1e6)


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(FramesOption, PixelLimit):
    """A question about a picture or video."""

    image: Annotated[Path, typer.Argument(metavar="FILE", help="Picture or video file.", show_default=False)]
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask about it.", show_default=False)]
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.", metavar="N", rich_help_panel=MODEL)] = 32


@dataclass(frozen=True, kw_only=True)
class CutOption:
    """Where in the decoder tokens leave."""

    layer: Annotated[
        int | None,
        typer.Option(help="Decoder layer the method acts before; by default the method's own.", metavar="N", rich_help_panel=COMPRESSION),
    ] = None


@dataclass(frozen=True, kw_only=True)
class MethodOptions(CutOption):
    """What every method takes."""

    seed: Annotated[int | None, typer.Option(help="Seed of methods that choose at random.", metavar="N", rich_help_panel=COMPRESSION)] = (
        None
    )
    settings: Annotated[
        tuple[str, ...],
        typer.Option("--set", hidden=True, metavar="NAME=VALUE"),
        Replaced("the option after the method: METHOD:NAME=VALUE"),
    ] = ()
    clamp: Annotated[
        bool, typer.Option("--clamp", help="Keep all tokens where there are fewer than --keep.", rich_help_panel=COMPRESSION)
    ] = False


@dataclass(frozen=True, kw_only=True)
class LinesOption:
    """How merges are drawn."""

    lines: Annotated[
        bool,
        typer.Option("--lines/--no-lines", help="Draw a line from each merged token to where it went.", rich_help_panel=OUTPUT),
        UNRECORDED,
    ] = True


@dataclass(frozen=True, kw_only=True)
class JsonOption:
    """How results are printed."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Write one JSON document to stdout instead of text.", rich_help_panel=OUTPUT), UNRECORDED
    ] = False
