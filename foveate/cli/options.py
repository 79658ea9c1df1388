"""Groups of options that several commands share, as dataclasses to inherit from. What a command has alone stands in its own module."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from foveate.cli.adapter import UNRECORDED, Replaced, argument, option
from foveate.cli.checks import finite

__all__ = [
    "COMPRESSION", "MEASUREMENT", "MODEL", "OUTPUT", "CutOption", "DeviceOption", "FramesOption", "JsonOption",
    "LinesOption", "MethodOptions", "ModelOptions", "PixelLimit", "QuestionOptions",
]  # fmt: skip

MODEL, COMPRESSION, MEASUREMENT, OUTPUT = "Model", "Compression", "Measurement", "Output"
"""Panels of the help."""


@dataclass(frozen=True, kw_only=True)
class DeviceOption:
    """Where a model runs."""

    device: Annotated[str, option("Such as cpu or cuda:0; auto uses a GPU if there is one.", "NAME", MODEL)] = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelOptions(DeviceOption):
    """Which model, its precision, and where it runs."""

    model: Annotated[str, option("demo or another embedded model, a folder, or a Hugging Face id; see foveate models.", "NAME", MODEL)] = (
        "demo"
    )
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], option("Precision: auto, float32, bfloat16 or float16.", "NAME", MODEL)
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class FramesOption:
    """How many frames of a video the model is shown."""

    frames: Annotated[int | None, option("Frames of a video, evenly spread in time; 8 by default.", "N", MODEL, min=1)] = None


@dataclass(frozen=True, kw_only=True)
class PixelLimit:
    """The size above which a picture is not decoded."""

    max_megapixels: Annotated[float, option("Refuse a larger picture before decoding it.", "N", min=1e-06, callback=finite)] = 64.0

    @property
    def max_pixels(self) -> int:
        """The same in pixels."""
        return round(self.max_megapixels * 1e6)


@dataclass(frozen=True, kw_only=True)
class QuestionOptions(FramesOption, PixelLimit):
    """A question about a picture or video."""

    image: Annotated[Path, argument("Picture or video file.", "FILE")]
    question: Annotated[str, argument("What to ask about it.", "QUESTION")]
    max_new_tokens: Annotated[int, option("Longest answer, in tokens.", "N", MODEL, min=1)] = 32


@dataclass(frozen=True, kw_only=True)
class CutOption:
    """Where in the decoder tokens leave."""

    layer: Annotated[int | None, option("Decoder layer the method acts before; by default the method's own.", "N", COMPRESSION)] = None


@dataclass(frozen=True, kw_only=True)
class MethodOptions(CutOption):
    """What every method takes."""

    seed: Annotated[int | None, option("Seed of methods that choose at random.", "N", COMPRESSION)] = None
    settings: Annotated[
        tuple[str, ...], option("", "NAME=VALUE", name="--set", hidden=True), Replaced("the option after the method: METHOD:NAME=VALUE")
    ] = ()
    clamp: Annotated[bool, option("Keep all tokens where there are fewer than --keep.", panel=COMPRESSION, name="--clamp")] = False


@dataclass(frozen=True, kw_only=True)
class LinesOption:
    """How merges are drawn."""

    lines: Annotated[
        bool, option("Draw a line from each merged token to where it went.", panel=OUTPUT, name="--lines/--no-lines"), UNRECORDED
    ] = True


@dataclass(frozen=True, kw_only=True)
class JsonOption:
    """How results are printed."""

    as_json: Annotated[bool, option("Write one JSON document to stdout instead of text.", panel=OUTPUT, name="--json"), UNRECORDED] = False
