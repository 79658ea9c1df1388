"""Assemble the stock model from what a run trained, on a machine that has no package but the luggage.

    python -m foveate.recipe.smollm2.export adapters.safetensors FOLDER --luggage PARTS [PARTS ...]

FOLDER receives the model in bfloat16 with its processor and its card, in the layout that `from_pretrained` reads. Where the decoder's
package is installed, `foveate demo build` does the same without luggage.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from foveate.errors import FoveateError
from foveate.recipe.smollm2.artefact import read_adapters
from foveate.recipe.smollm2.build import SIDES, write_model
from foveate.recipe.smollm2.quantised import decoder_config
from foveate.recipe.smollm2.travel import read_parts, unpack


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of `python -m foveate.recipe.smollm2.export`."""
    parser = argparse.ArgumentParser(prog="python -m foveate.recipe.smollm2.export", description="Assemble the stock model.")
    parser.add_argument("adapters", type=Path, help="adapters.safetensors of a run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--luggage", type=Path, nargs="+", required=True, help="folders with the parts that travel packed")
    parser.add_argument("--side", type=int, choices=SIDES, help="patches per side of a picture; by default as in training")
    options = parser.parse_args(arguments)
    try:
        trained = read_adapters(options.adapters)
        write_model(trained, unpack(read_parts(options.luggage)), decoder_config(), options.side or trained.side, options.folder)
    except FoveateError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
