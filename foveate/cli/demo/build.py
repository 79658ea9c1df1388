"""`foveate demo build`: assemble the embedded model that has a pretrained decoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from foveate.cli import console
from foveate.cli.adapter import option

__all__ = ["BuildEmbedded"]


@dataclass(frozen=True, kw_only=True)
class BuildEmbedded:
    """Assemble the embedded model with a pretrained decoder, offline, for --model demo-smollm2."""

    decoder: Annotated[Literal["smollm2"], option("The pretrained decoder: smollm2.", "NAME")] = "smollm2"
    adapters: Annotated[Path | None, option("What a run trained; by default what foveate ships.", "FILE")] = None
    tokens: Annotated[int | None, option("Visual tokens of a picture, 144 or 576; by default as in training.", "N", min=1)] = None
    out: Annotated[Path | None, option("Folder for the model; by default the one in the cache that --model looks in.", "FOLDER")] = None

    def run(self) -> None:
        """Assemble the model.

        Raises:
            InputError: there are no adapters, they do not fit, or pictures cannot have so many visual tokens.
            MissingPackageError: the decoder's package is not installed.
            RecordError: adapters or decoder cannot be read, or are others.
            WriteError: the folder cannot be written.
        """
        from foveate.recipe.smollm2.build import build, side_of

        side = None if self.tokens is None else side_of(self.tokens)
        with console.spinner("assembling the model"):
            folder = build(self.adapters, self.out, side)
        console.put(f"written: {folder}")
