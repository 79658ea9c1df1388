"""Assemble the stock model from what a run trained.

    python -m foveate.recipe.smollm2.export adapters.safetensors FOLDER --luggage PARTS [PARTS ...]

FOLDER receives the model in bfloat16 with its processor, in the layout that `from_pretrained` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import GenerationConfig, LlamaConfig, LlavaForConditionalGeneration

from foveate.demo.scenes.labels import GRID
from foveate.errors import FoveateError, RecordError
from foveate.files.writing import whole_folder
from foveate.recipe.smollm2.language import IMAGE, Words, build_processor
from foveate.recipe.smollm2.model import assemble, projector_of, with_adapters
from foveate.recipe.smollm2.quantised import decoder_config
from foveate.recipe.smollm2.travel import Luggage, read_parts, unpack


def seeing(adapters: Path, luggage: Luggage, config: LlamaConfig, side: int = GRID) -> LlavaForConditionalGeneration:
    """The stock model, in float32.

    Args:
        adapters: what a run wrote.
        luggage: what it was given.
        config: the decoder's configuration.
        side: patches per side of a picture: 24, or 12 for the setting with 144 visual tokens.

    Raises:
        RecordError: the adapters cannot be read.
    """
    try:
        trained = load_file(adapters)
    except (OSError, SafetensorError) as error:
        raise RecordError(f"{adapters} cannot be read ({error}); name the adapters.safetensors of a run") from error
    image = Words(luggage.tokenizer).ids(IMAGE)[0]
    model = assemble(with_adapters(luggage.decoder, trained), config, luggage.tower, projector_of(trained), image, side)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2, max_new_tokens=24, do_sample=False)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line of `python -m foveate.recipe.smollm2.export`."""
    parser = argparse.ArgumentParser(prog="python -m foveate.recipe.smollm2.export", description="Assemble the stock model.")
    parser.add_argument("adapters", type=Path, help="adapters.safetensors of a run")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--luggage", type=Path, nargs="+", required=True, help="folders with the parts that travel packed")
    parser.add_argument("--side", type=int, choices=(12, 24), default=GRID, help="patches per side of a picture")
    parser.add_argument("--float32", action="store_true", help="write float32 instead of bfloat16")
    options = parser.parse_args(arguments)
    try:
        luggage = unpack(read_parts(options.luggage))
        model = seeing(options.adapters, luggage, decoder_config(), options.side)
        with whole_folder(options.folder) as unfinished:
            model.to(torch.float32 if options.float32 else torch.bfloat16).save_pretrained(unfinished)
            build_processor(luggage.tokenizer, options.side).save_pretrained(unfinished)
    except FoveateError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
