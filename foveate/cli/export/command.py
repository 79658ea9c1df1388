"""The options of `foveate export vllm`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from foveate.cli.adapter import argument, option
from foveate.cli.checks import checked, finite, parse_keep
from foveate.cli.options import COMPRESSION, OUTPUT, CutOption, JsonOption

__all__ = ["ExportVllm"]

SERVING = "Serving"


@dataclass(frozen=True, kw_only=True)
class ExportVllm(CutOption, JsonOption):
    """Write a folder that vLLM serves with compression, and print the commands that serve it and ask it."""

    model: Annotated[str, argument("demo, a folder, or a Hugging Face id.", "MODEL")]
    out: Annotated[Path, argument("Folder to write; it must not exist, or be empty.", "OUT")]
    method: Annotated[
        str, option("See foveate methods; options of its own after colons: tokencarve:information=fast.", "NAME", COMPRESSION)
    ] = "tokencarve"
    keep: Annotated[
        str,
        option(
            "Visual tokens to keep of each image: how many (128), or their share (0.25).",
            "N|SHARE",
            COMPRESSION,
            callback=checked(parse_keep),
        ),
    ] = "128"
    seed: Annotated[int | None, option("Seed of methods that choose at random.", "N", COMPRESSION)] = None
    max_keep: Annotated[
        str | None, option("Most that a request may ask for; requests then choose.", "N|SHARE", SERVING, callback=checked(parse_keep))
    ] = None
    feature_cache: Annotated[
        float | None,
        option("MiB of recent images' vision features to keep; 128 by default, 0 for none.", "MIB", SERVING, min=0, callback=finite),
    ] = None
    copy: Annotated[bool, option("Copy the model's files instead of linking them.", panel=OUTPUT, name="--copy")] = False

    def run(self) -> None:
        """See `foveate.cli.export.run`."""
        from foveate.cli.export.run import export

        export(self)
